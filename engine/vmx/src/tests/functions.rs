//! Facts about VM functions (SDM vol. 3, 26.5.6).

use super::*;
use crate::capabilities::EPTP_SWITCHING;
use crate::functions::vmfunc;
use gasang_cpu::{Exception, Operation};
use gasang_x86::gpr;
use gasang_x86::vmx::ExitReason;
use gasang_x86::vmx::controls::secondary;

const LIST: u64 = PAGES;
const POINTER: u64 = PAGES + 0x1000 | 0x1e;

/// A guest under EPT, all of whose functions are enabled; entry 5 of its list is `POINTER`.
fn guest() -> Machine {
    let mut machine = Machine::current();
    machine.state.vmx.operation = Operation::NonRoot;
    machine.state.vmx.interceptions.secondary = secondary::ENABLE_EPT | secondary::ENABLE_VM_FUNCTIONS;
    machine.state.vmx.vmcs.set(Field::VmFunctionControls, EPTP_SWITCHING);
    machine.state.vmx.vmcs.set(Field::EptpListAddress, LIST);
    machine.poke(LIST + 5 * 8, 8, POINTER);
    machine.state.gpr[gpr::RCX] = 5;
    machine
}

fn call(machine: &mut Machine) -> Result<(), Trap> {
    machine.with(vmfunc)
}

#[test]
fn a_listed_pointer_becomes_the_ept_pointer() {
    let mut machine = guest();
    machine.state.gpr[gpr::RAX] = 0xffff_ffff_0000_0000;
    assert_eq!(call(&mut machine), Ok(()));
    assert_eq!(machine.state.vmx.vmcs.get(Field::EptPointer), POINTER);
    assert_eq!(machine.state.vmx.vmcs.get(Field::EptpIndex), 0);
}

#[test]
fn what_is_not_enabled_or_not_valid_is_an_exit() {
    type Change = fn(&mut Machine);
    let changes: [Change; 5] = [
        |machine| machine.state.gpr[gpr::RAX] = 1,
        |machine| machine.state.gpr[gpr::RAX] = 63,
        |machine| machine.state.gpr[gpr::RCX] = 512,
        |machine| machine.poke(LIST + 5 * 8, 8, POINTER | 0x800),
        |machine| machine.state.vmx.vmcs.set(Field::VmFunctionControls, 0),
    ];
    for change in changes {
        let mut machine = guest();
        change(&mut machine);
        assert_eq!(call(&mut machine), Err(Trap::VmExit));
        let exit = machine.state.vmx.pending_exit.unwrap();
        assert!(exit.by_instruction);
        assert_eq!((exit.reason, exit.qualification), (ExitReason::Vmfunc, 0));
        assert_eq!(machine.state.vmx.vmcs.get(Field::EptPointer), 0);
    }
}

#[test]
fn it_is_not_defined_without_the_control_or_outside_a_guest() {
    type Change = fn(&mut Machine);
    let changes: [Change; 3] = [
        |machine| machine.state.vmx.interceptions.secondary = secondary::ENABLE_EPT,
        |machine| machine.state.gpr[gpr::RAX] = 64,
        |machine| machine.state.vmx.operation = Operation::Root,
    ];
    for change in changes {
        let mut machine = guest();
        change(&mut machine);
        assert_eq!(call(&mut machine), Err(Exception::invalid_opcode().into()));
    }
}
