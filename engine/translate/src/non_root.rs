//! What decoding sees to in VMX non-root operation, where an instruction may cause a VM exit.

use crate::decode::{Kind, Operation, STATUS};
use iced_x86::{Code, Instruction, Register};

/// Whether an instruction that otherwise stays in generated code may be another in VMX non-root operation. (RDTSC looks at
/// run time.)
pub(crate) fn may_exit(instruction: &Instruction) -> bool {
    match instruction.code() {
        Code::Mov_r64_cr => instruction.op1_register() == Register::CR3,
        Code::Rdtscp | Code::Vmread_rm64_r64 | Code::Vmwrite_r64_rm64 => true,
        _ => false,
    }
}

/// A VM exit of the instruction behind STI tells that interrupts were blocked by it: such an STI is T0's, which remembers.
pub(crate) fn interpret_watched_sti(operations: &mut Vec<Operation>) {
    let never_exits = |operation: &Operation| {
        matches!(
            operation.kind,
            Kind::Nothing | Kind::Plain | Kind::Address | Kind::Jump(_) | Kind::Branch(_)
        )
    };
    let watched = |place: &usize| {
        operations[*place].kind == Kind::SetInterrupt && !operations.get(place + 1).is_some_and(never_exits)
    };
    if let Some(place) = (0..operations.len()).find(watched) {
        operations[place].kind = Kind::Interpret;
        (operations[place].reads, operations[place].writes, operations[place].kills) = (STATUS, 0, 0);
        operations.truncate(place + 1);
    }
}
