//! How an instruction ends.

/// Where execution goes on after an instruction that did not fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// At the next instruction.
    Next,
    /// At `state.rip`, which the instruction has set.
    Jumped,
    /// As `Jumped`; the single-step trap depends on the TF that the instruction has set (SYSCALL, SYSRET).
    JumpedWithNewFlags,
    /// In the handler of an interrupt that the instruction asked for: no single-step trap.
    Interrupted,
    /// In a guest, or back in the host because the guest's state was refused: VMLAUNCH, VMRESUME. Nothing of the state
    /// before is left.
    Entered,
    /// At the same instruction: a REP that is not finished.
    Repeat,
    /// At the next instruction, after an interrupt.
    Halted,
}
