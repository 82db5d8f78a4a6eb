//! Facts about VMCS shadowing (SDM vol. 3, 25.10, 26.1.3).

use super::*;
use crate::intercept::{self, Operand};
use crate::vmcs_access::{vmread, vmwrite};
use crate::vmcs_region::{self, SHADOW};
use gasang_cpu::Operation;
use gasang_x86::vmx::controls::secondary;
use gasang_x86::vmx::{ExitReason, InstructionError};

const READS: u64 = PAGES;
const WRITES: u64 = PAGES + 0x1000;

/// A guest whose link pointer names `OTHER`, a shadow VMCS; the bitmaps name no field.
fn guest() -> Machine {
    let mut machine = Machine::current();
    machine.poke(OTHER, 4, u64::from(REVISION | SHADOW));
    machine.state.vmx.operation = Operation::NonRoot;
    machine.state.vmx.interceptions.secondary = secondary::VMCS_SHADOWING;
    for (field, value) in
        [(Field::VmcsLinkPointer, OTHER), (Field::VmreadBitmap, READS), (Field::VmwriteBitmap, WRITES)]
    {
        machine.state.vmx.vmcs.set(field, value);
    }
    machine
}

fn look(machine: &mut Machine, reason: ExitReason, field: u64) -> Result<(), Trap> {
    machine.with(|core, _| intercept::vmcs_access(core, reason, &Operand::Register(0), 1, field))
}

#[test]
fn every_field_is_that_of_the_shadow_vmcs() {
    let mut machine = guest();
    for &field in Field::ALL {
        if !machine.capabilities.supports(field) {
            continue;
        }
        let (encoding, before) = (u64::from(field.encoding()), machine.state.vmx.vmcs.get(field));
        let value = 0x1234_5678_9abc_def0 ^ encoding;
        let written = machine.with(|core, known| vmwrite(core, known, encoding, value));
        assert_eq!(written, Ok(Outcome::Succeed));
        let expected = value & field.width().mask();
        assert_eq!(machine.with(|core, known| vmread(core, known, encoding)), Ok(Ok(expected)));
        assert_eq!(vmcs_region::load(&machine.memory, OTHER).get(field), expected);
        assert_eq!(machine.state.vmx.vmcs.get(field), before);
    }
    assert!(vmcs_region::load(&machine.memory, OTHER).shadow);
}

#[test]
fn bitmaps_and_high_bits_of_the_encoding_decide() {
    let field = u64::from(Field::GuestRsp.encoding());
    let mut machine = guest();
    for (reason, bitmap) in [(ExitReason::Vmread, READS), (ExitReason::Vmwrite, WRITES)] {
        assert_eq!(look(&mut machine, reason, field), Ok(()));
        machine.poke(bitmap + field / 8, 1, 1 << (field % 8));
        assert_eq!(look(&mut machine, reason, field), Err(Trap::VmExit));
        assert_eq!(machine.state.vmx.pending_exit.unwrap().reason, reason);
        assert_eq!(look(&mut machine, reason, field + 2), Ok(()));
        for bit in [15, 31, 63] {
            assert_eq!(look(&mut machine, reason, (field + 2) | 1 << bit), Err(Trap::VmExit));
        }
    }
    machine.state.vmx.interceptions.secondary = 0;
    assert_eq!(look(&mut machine, ExitReason::Vmread, field + 2), Err(Trap::VmExit));
}

#[test]
fn accesses_fail_without_a_link_pointer_and_without_a_field() {
    let mut machine = guest();
    let unsupported = Outcome::FailValid(InstructionError::UnsupportedField);
    assert_eq!(machine.with(|core, known| vmread(core, known, 0x69fe)), Ok(Err(unsupported)));
    assert_eq!(machine.with(|core, known| vmwrite(core, known, 0x69fe, 0)), Ok(unsupported));
    machine.state.vmx.vmcs.set(Field::VmcsLinkPointer, u64::MAX);
    let field = u64::from(Field::GuestRsp.encoding());
    assert_eq!(machine.with(|core, known| vmread(core, known, field)), Ok(Err(Outcome::FailInvalid)));
    assert_eq!(machine.with(|core, known| vmwrite(core, known, field, 0)), Ok(Outcome::FailInvalid));
}
