//! The processor's own virtualization, by /dev/kvm: the same machine at the processor's speed, where there is VT-x or AMD-V.

mod alarm;
mod controllers;
mod doorbell;
mod exit;
mod ioctl;
mod machine;
mod msrs;
mod probe;
mod signals;
mod state;
mod statistics;
mod system;
mod vcpu;
mod watch;

pub use alarm::Alarm;
pub use controllers::KernelControllers;
pub use doorbell::{Doorbell, Place};
pub use exit::{Exit, MsrAccess};
pub use machine::{InterruptControllers, Machine};
pub use probe::{PROBE_BASE, PROBE_EXPECTED, PROBE_PORT, PROBE_STEPS, PROBE_TABLES, probe_code};
pub use state::Undelivered;
pub use statistics::Statistics;
pub use system::System;
pub use vcpu::Vcpu;
pub use watch::Watch;

use std::io;

/// What an ioctl said, as the host's error.
fn host_error(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}
