//! Kicks: SIGURG, which makes KVM_RUN return. It waits outside of the guest, so that none is lost on the way in.

use crate::ioctl::{SignalMask, set_signal_mask};
use std::io;
use std::os::fd::AsRawFd;

/// What is let in while the guest runs: kicks, and faults, which cannot wait.
const OPEN: [i32; 6] = [libc::SIGURG, libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP];

/// Have the processor's thread take kicks while it is in the guest.
pub(crate) fn let_kicks_in(vcpu: &impl AsRawFd) -> io::Result<()> {
    set_signal_mask(vcpu, &SignalMask::open_for(&OPEN))
}

/// Take the kick that waits, if one does: it has done what it was for.
pub(crate) fn take_kick() {
    // SAFETY: the set is initialized before it is used; a null pointer asks for no details; the timeout is none.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGURG);
        let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        libc::sigtimedwait(&set, std::ptr::null_mut(), &none);
    }
}
