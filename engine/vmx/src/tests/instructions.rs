//! VMXON to INVVPID: who may, what is refused, and what each error is called.

use super::*;
use crate::entry::{self, Entered};
use crate::instructions::*;
use crate::vmcs_access::{vmread, vmwrite};
use gasang_cpu::{Exception, Operation};
use gasang_x86::rflags;
use gasang_x86::vmx::controls::secondary;
use gasang_x86::vmx::{Field, InstructionError, Width};

const UNDEFINED: Trap = Trap::Exception(Exception::invalid_opcode());
const REFUSED: Trap = Trap::Exception(Exception::general_protection(0));

fn failed(error: InstructionError) -> Result<Outcome, Trap> {
    Ok(Outcome::FailValid(error))
}

#[test]
fn outcomes_are_told_by_carry_and_zero() {
    let all = rflags::STATUS | rflags::FIXED | rflags::IF;
    let kept = rflags::FIXED | rflags::IF;
    assert_eq!(Outcome::Succeed.flags(all), kept);
    assert_eq!(Outcome::FailInvalid.flags(all), kept | rflags::CF);
    assert_eq!(Outcome::FailValid(InstructionError::VmxonInRoot).flags(all), kept | rflags::ZF);
}

#[test]
fn vmxon_enters_root_operation_once() {
    let mut machine = Machine::root();
    assert_eq!(machine.state.vmx.operation, Operation::Root);
    assert_eq!(machine.with(|core, known| vmxon(core, known, VMXON)), Ok(Outcome::FailInvalid));
    let mut machine = Machine::current();
    assert_eq!(machine.with(|core, known| vmxon(core, known, VMXON)), failed(InstructionError::VmxonInRoot));
}

#[test]
fn vmxon_is_undefined_without_vmxe_and_in_compatibility_mode() {
    let mut machine = Machine::new();
    machine.state.cr4 &= !cr4::VMXE;
    assert_eq!(machine.with(|core, known| vmxon(core, known, VMXON)), Err(UNDEFINED));
    let mut machine = Machine::new();
    machine.state.segment[segment::CS].attributes &= !access::LONG;
    assert_eq!(machine.with(|core, known| vmxon(core, known, VMXON)), Err(UNDEFINED));
}

#[test]
fn vmxon_wants_privilege_numeric_errors_and_feature_control() {
    let mut machine = Machine::new();
    machine.state.segment[segment::SS].attributes |= access::DPL;
    assert_eq!(machine.with(|core, known| vmxon(core, known, VMXON)), Err(REFUSED));
    let mut machine = Machine::new();
    machine.state.cr0 &= !cr0::NE;
    assert_eq!(machine.with(|core, known| vmxon(core, known, VMXON)), Err(REFUSED));
    for control in [0, feature_control::LOCK, feature_control::VMX_OUTSIDE_SMX] {
        let mut machine = Machine::new();
        machine.state.vmx.feature_control = control;
        assert_eq!(machine.with(|core, known| vmxon(core, known, VMXON)), Err(REFUSED));
    }
}

#[test]
fn vmxon_wants_an_aligned_region_with_the_revision() {
    for pointer in [VMXON + 8, 1 << 46, PAGES, 0x8000_0000] {
        let mut machine = Machine::new();
        assert_eq!(machine.with(|core, known| vmxon(core, known, pointer)), Ok(Outcome::FailInvalid));
        assert_eq!(machine.state.vmx.operation, Operation::Off);
    }
}

#[test]
fn outside_vmx_operation_nothing_else_is_defined() {
    let mut machine = Machine::new();
    assert_eq!(machine.with(|core, _| vmxoff(core)), Err(UNDEFINED));
    assert_eq!(machine.with(|core, _| vmclear(core, VMCS)), Err(UNDEFINED));
    assert_eq!(machine.with(|core, known| vmptrld(core, known, VMCS)), Err(UNDEFINED));
    assert_eq!(machine.with(|core, _| vmptrst(core)), Err(UNDEFINED));
    assert_eq!(machine.with(|core, known| vmread(core, known, 0x681e)), Err(UNDEFINED));
    assert_eq!(machine.with(|core, known| vmwrite(core, known, 0x681e, 0)), Err(UNDEFINED));
    assert_eq!(machine.with(|core, known| invept(core, known, 2, [0; 2])), Err(UNDEFINED));
    assert_eq!(machine.with(|core, known| invvpid(core, known, 2, [0; 2])), Err(UNDEFINED));
}

#[test]
fn programs_may_not() {
    let mut machine = Machine::current();
    machine.state.segment[segment::SS].attributes |= access::DPL;
    assert_eq!(machine.with(|core, _| vmxoff(core)), Err(REFUSED));
    assert_eq!(machine.with(|core, known| vmread(core, known, 0x681e)), Err(REFUSED));
    assert_eq!(machine.with(|core, known| invvpid(core, known, 2, [0; 2])), Err(REFUSED));
}

#[test]
fn vmcall_in_root_operation_fails() {
    let mut machine = Machine::current();
    assert_eq!(machine.with(|core, _| vmcall(core)), failed(InstructionError::VmcallInRoot));
}

#[test]
fn vmclear_tells_its_errors() {
    let mut machine = Machine::current();
    for pointer in [VMCS + 1, 1 << 46] {
        let outcome = machine.with(|core, _| vmclear(core, pointer));
        assert_eq!(outcome, failed(InstructionError::VmclearInvalidAddress));
    }
    assert_eq!(machine.with(|core, _| vmclear(core, VMXON)), failed(InstructionError::VmclearVmxonPointer));
    assert_eq!(machine.state.vmx.vmcs.get(Field::VmInstructionError), 3);
}

#[test]
fn vmclear_writes_the_current_vmcs_and_leaves_none() {
    let mut machine = Machine::current();
    machine.state.vmx.vmcs.launched = true;
    machine.state.vmx.vmcs.set(Field::GuestRip, 0x1122_3344_5566_7788);
    assert_eq!(machine.with(|core, _| vmclear(core, VMCS)), Ok(Outcome::Succeed));
    assert_eq!(machine.with(|core, _| vmptrst(core)), Ok(u64::MAX));
    let kept = crate::vmcs_region::load(&machine.memory, VMCS);
    assert_eq!((kept.launched, kept.get(Field::GuestRip)), (false, 0x1122_3344_5566_7788));
}

#[test]
fn vmclear_of_another_vmcs_makes_it_clear() {
    let mut machine = Machine::current();
    machine.state.vmx.vmcs.launched = true;
    machine.with(|core, known| vmptrld(core, known, OTHER)).unwrap();
    assert!(crate::vmcs_region::load(&machine.memory, VMCS).launched);
    machine.with(|core, _| vmclear(core, VMCS)).unwrap();
    assert!(!crate::vmcs_region::load(&machine.memory, VMCS).launched);
    assert_eq!(machine.with(|core, _| vmptrst(core)), Ok(OTHER));
}

#[test]
fn vmptrld_tells_its_errors() {
    let mut machine = Machine::current();
    for (pointer, error) in [
        (VMCS + 8, InstructionError::VmptrldInvalidAddress),
        (1 << 46, InstructionError::VmptrldInvalidAddress),
        (VMXON, InstructionError::VmptrldVmxonPointer),
        (PAGES, InstructionError::VmptrldIncorrectRevision),
        (0x8000_0000, InstructionError::VmptrldIncorrectRevision),
    ] {
        assert_eq!(machine.with(|core, known| vmptrld(core, known, pointer)), failed(error));
        assert_eq!(machine.with(|core, _| vmptrst(core)), Ok(VMCS));
    }
}

#[test]
fn a_shadow_vmcs_is_loaded_where_it_is_offered_and_never_entered() {
    let mut machine = Machine::current();
    machine.poke(OTHER, 4, u64::from(REVISION | crate::vmcs_region::SHADOW));
    let offered = machine.capabilities.secondary.can_be_one;
    machine.capabilities.secondary.can_be_one &= !secondary::VMCS_SHADOWING;
    let outcome = machine.with(|core, known| vmptrld(core, known, OTHER));
    assert_eq!(outcome, failed(InstructionError::VmptrldIncorrectRevision));
    machine.capabilities.secondary.can_be_one = offered;
    let outcome = machine.with(|core, known| vmptrld(core, known, OTHER));
    assert_eq!(outcome, Ok(Outcome::Succeed));
    for launch in [true, false] {
        let entered = machine.with(|core, known| entry::enter(core, known, launch, false));
        assert_eq!(entered, Ok(Entered::Failed(Outcome::FailInvalid, None)));
    }
}

#[test]
fn vmptrld_puts_the_old_vmcs_away() {
    let mut machine = Machine::current();
    let write = |machine: &mut Machine, value| {
        machine
            .with(|core, known| vmwrite(core, known, u64::from(Field::GuestRsp.encoding()), value))
            .unwrap()
    };
    write(&mut machine, 1);
    machine.with(|core, known| vmptrld(core, known, OTHER)).unwrap();
    write(&mut machine, 2);
    machine.with(|core, known| vmptrld(core, known, VMCS)).unwrap();
    assert_eq!(machine.state.vmx.vmcs.get(Field::GuestRsp), 1);
    machine.with(|core, known| vmptrld(core, known, OTHER)).unwrap();
    assert_eq!(machine.state.vmx.vmcs.get(Field::GuestRsp), 2);
}

#[test]
fn every_field_is_written_and_read_by_its_encoding() {
    let mut machine = Machine::current();
    for &field in Field::ALL {
        let encoding = u64::from(field.encoding());
        let value = 0x1234_5678_9abc_def0 ^ encoding;
        let written = machine.with(|core, known| vmwrite(core, known, encoding, value));
        let read = machine.with(|core, known| vmread(core, known, encoding));
        if !machine.capabilities.supports(field) {
            assert_eq!(written, failed(InstructionError::UnsupportedField));
            assert_eq!(read, Ok(Err(Outcome::FailValid(InstructionError::UnsupportedField))));
        } else {
            assert_eq!(written, Ok(Outcome::Succeed));
            assert_eq!(read, Ok(Ok(value & field.width().mask())), "{field:?}");
        }
    }
}

#[test]
fn high_halves_are_fields_of_their_own() {
    let mut machine = Machine::current();
    for &field in Field::ALL {
        let encoding = u64::from(field.encoding());
        if !machine.capabilities.supports(field) {
            continue;
        }
        machine.with(|core, known| vmwrite(core, known, encoding, 0x1111_1111_2222_2222)).unwrap();
        let written = machine.with(|core, known| vmwrite(core, known, encoding | 1, 0x3333_3333));
        if field.width() == Width::Bits64 {
            assert_eq!(machine.state.vmx.vmcs.get(field), 0x3333_3333_2222_2222);
            assert_eq!(machine.with(|core, known| vmread(core, known, encoding | 1)), Ok(Ok(0x3333_3333)));
        } else {
            assert_eq!(written, failed(InstructionError::UnsupportedField));
        }
    }
}

#[test]
fn outside_64bit_mode_operands_have_32_bits() {
    let mut machine = Machine::current();
    machine.state.efer &= !(efer::LMA | efer::LME);
    machine.state.vmx.vmcs.set(Field::GuestRip, u64::MAX);
    machine.state.vmx.vmcs.set(Field::TscOffset, u64::MAX);
    assert_eq!(machine.with(|core, known| vmread(core, known, 0x681e)), Ok(Ok(0xffff_ffff)));
    machine.with(|core, known| vmwrite(core, known, 0x681e, u64::MAX)).unwrap();
    machine.with(|core, known| vmwrite(core, known, 0x2010, 5)).unwrap();
    assert_eq!(machine.state.vmx.vmcs.get(Field::GuestRip), 0xffff_ffff);
    assert_eq!(machine.state.vmx.vmcs.get(Field::TscOffset), 5);
}

#[test]
fn encodings_beyond_32_bits_name_nothing() {
    let mut machine = Machine::current();
    let outcome = machine.with(|core, known| vmwrite(core, known, 1 << 32 | 0x681e, 0));
    assert_eq!(outcome, failed(InstructionError::UnsupportedField));
}

#[test]
fn without_a_current_vmcs_fields_cannot_be_reached() {
    let mut machine = Machine::root();
    assert_eq!(machine.with(|core, known| vmread(core, known, 0x681e)), Ok(Err(Outcome::FailInvalid)));
    assert_eq!(machine.with(|core, known| vmwrite(core, known, 0x4402, 0)), Ok(Outcome::FailInvalid));
}

#[test]
fn invalidations_check_their_descriptors() {
    let mut machine = Machine::current();
    let bad = failed(InstructionError::InvalidInvalidationOperand);
    let good = Ok(Outcome::Succeed);
    let write_back = 0x1e | PAGES;
    for (kind, descriptor, expected) in [
        (0, [write_back, 0], bad),
        (1, [write_back, 0], good),
        (1, [0x1d, 0], bad),
        (1, [0x26, 0], bad),
        (1, [0x11e, 0], bad),
        (2, [0, 0], good),
        (3, [0, 0], bad),
    ] {
        assert_eq!(machine.with(|core, known| invept(core, known, kind, descriptor)), expected);
    }
    for (kind, descriptor, expected) in [
        (0, [1, 0x1000], good),
        (0, [1, 1 << 63], bad),
        (0, [0, 0], bad),
        (1, [0x1_0000, 0], bad),
        (1, [7, 0], good),
        (2, [0, 0], good),
        (3, [7, 0], good),
        (3, [0, 0], bad),
        (4, [7, 0], bad),
    ] {
        assert_eq!(machine.with(|core, known| invvpid(core, known, kind, descriptor)), expected, "{kind}");
    }
}

#[test]
fn vmxoff_leaves_vmx_operation() {
    let mut machine = Machine::current();
    assert_eq!(machine.with(|core, _| vmxoff(core)), Ok(Outcome::Succeed));
    assert_eq!(machine.state.vmx.operation, Operation::Off);
    assert_eq!(machine.with(|core, _| vmxoff(core)), Err(UNDEFINED));
}
