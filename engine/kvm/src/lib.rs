//! The processor's own virtualization, by /dev/kvm: the same machine at the processor's speed, where there is VT-x or AMD-V.

mod alarm;
mod exit;
mod ioctl;
mod machine;
mod msrs;
mod probe;
mod signals;
mod state;
mod system;
mod vcpu;

pub use alarm::Alarm;
pub use exit::{Exit, MsrAccess};
pub use machine::Machine;
pub use probe::{PROBE_BASE, PROBE_EXPECTED, PROBE_PORT, PROBE_STEPS, PROBE_TABLES, probe_code};
pub use state::Undelivered;
pub use system::System;
pub use vcpu::Vcpu;

use std::io;

/// What an ioctl said, as the host's error.
fn host_error(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}
