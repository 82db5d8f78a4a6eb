//! The requests of processors that kvm-ioctls does not have.

use kvm_bindings::{kvm_device_attr, kvm_interrupt};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A signal set of the kernel's, of 64 signals, for KVM_SET_SIGNAL_MASK.
#[repr(C)]
pub(crate) struct SignalMask {
    length: u32,
    blocked: [u8; 8],
}

impl SignalMask {
    /// These signals are let in, no others.
    pub(crate) fn open_for(signals: &[i32]) -> SignalMask {
        let open = signals.iter().fold(0u64, |all, signal| all | 1 << (signal - 1));
        SignalMask { length: 8, blocked: (!open).to_le_bytes() }
    }
}

/// A structure that a request of processors reads.
///
/// # Safety
/// The kernel reads a structure of this type, and writes none, for the request of this number.
unsafe trait Argument {
    const REQUEST: libc::c_ulong;
}

// SAFETY: KVM_INTERRUPT, KVM_SET_SIGNAL_MASK and KVM_SET_DEVICE_ATTR of <linux/kvm.h>.
unsafe impl Argument for kvm_interrupt {
    const REQUEST: libc::c_ulong = 0x4004_ae86;
}
// SAFETY: as above; the set follows the length.
unsafe impl Argument for SignalMask {
    const REQUEST: libc::c_ulong = 0x4004_ae8b;
}
// SAFETY: as above.
unsafe impl Argument for kvm_device_attr {
    const REQUEST: libc::c_ulong = 0x4018_aee1;
}

fn request<T: Argument>(fd: RawFd, argument: &T) -> io::Result<()> {
    // SAFETY: `Argument` says what the kernel does with it.
    let result = unsafe { libc::ioctl(fd, T::REQUEST, std::ptr::from_ref(argument)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// KVM_GET_STATS_FD.
pub(crate) fn statistics(vcpu: &impl AsRawFd) -> io::Result<File> {
    const REQUEST: libc::c_ulong = 0xaece;
    // SAFETY: the request takes no argument.
    let fd = unsafe { libc::ioctl(vcpu.as_raw_fd(), REQUEST) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made the descriptor, for nobody else.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// KVM_INTERRUPT.
pub(crate) fn interrupt(vcpu: &impl AsRawFd, vector: u8) -> io::Result<()> {
    request(vcpu.as_raw_fd(), &kvm_interrupt { irq: vector.into() })
}

/// KVM_SET_SIGNAL_MASK.
pub(crate) fn set_signal_mask(vcpu: &impl AsRawFd, mask: &SignalMask) -> io::Result<()> {
    request(vcpu.as_raw_fd(), mask)
}

/// KVM_SET_DEVICE_ATTR of an attribute that is a number.
pub(crate) fn set_attribute(vcpu: &impl AsRawFd, group: u32, attribute: u32, value: u64) -> io::Result<()> {
    let addr = std::ptr::from_ref(&value) as u64;
    request(vcpu.as_raw_fd(), &kvm_device_attr { group, attr: attribute.into(), addr, flags: 0 })
}
