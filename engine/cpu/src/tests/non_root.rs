//! Facts about delivery and task switches in VMX non-root operation (SDM vol. 3, 26.2, 26.3, 26.4.2, 28.2).

use super::*;
use crate::{Interruption, Operation, VmExit};
use gasang_x86::vmx::ExitReason;
use gasang_x86::vmx::controls::pin;

const NEXT: u64 = 0x1240;

fn enter(machine: &mut Machine, exceptions: u32) {
    machine.state.vmx.operation = Operation::NonRoot;
    machine.state.vmx.interceptions.exceptions = exceptions;
}

fn exit(machine: &mut Machine, result: Result<(), Trap>) -> VmExit {
    assert_eq!(result, Err(Trap::VmExit));
    machine.state.vmx.pending_exit.take().unwrap()
}

fn protected_with_task() -> Machine {
    let mut machine = Machine::protected();
    machine.set_descriptor(FREE, descriptor(0x4000, 0x67, system::TSS_AVAILABLE | access::PRESENT));
    machine.poke(IDT + 0x50 * 8, 8, gate(FREE, 0, system::TASK_GATE, 3, 0));
    enter(&mut machine, 0);
    machine
}

#[test]
fn task_switches_exit_before_they_change_anything() {
    let mut machine = protected_with_task();
    let result = machine.core().far_jump(FREE, 0, 32, NEXT);
    let jump = exit(&mut machine, result);
    assert_eq!((jump.reason, jump.qualification), (ExitReason::TaskSwitch, u64::from(FREE) | 2 << 30));
    let result = machine.core().far_call(FREE, 0, 32, NEXT);
    let call = exit(&mut machine, result);
    assert_eq!((call.qualification, call.by_instruction), (u64::from(FREE), true));
    assert_eq!((machine.state.rip, machine.state.tr.selector), (0x1234, TSS_SELECTOR));
}

#[test]
fn a_task_gate_exits_with_the_event() {
    let mut machine = protected_with_task();
    let result = machine.core().software_interrupt(0x50, 0x1236);
    let task = exit(&mut machine, result);
    assert_eq!(task.qualification, u64::from(FREE) | 3 << 30);
    let event = Interruption { information: 0x8000_0450, error_code: 0, instruction_length: 2 };
    assert_eq!((task.idt_vectoring, task.instruction_length), (Some(event), 2));
    let result = machine.core().deliver_interrupt(0x50);
    assert_eq!(exit(&mut machine, result).idt_vectoring.unwrap().information, 0x8000_0050);
}

#[test]
fn a_fault_of_a_software_interrupt_tells_the_interrupt() {
    let mut machine = Machine::long();
    machine.poke(IDT + 0x80 * 16, 8, 0);
    enter(&mut machine, 1 << 13);
    let Err(Trap::Exception(fault)) = machine.core().software_interrupt(0x80, 0x1236) else { panic!() };
    let result = machine.core().deliver_exception(fault);
    let met = exit(&mut machine, result);
    assert_eq!(met.interruption.unwrap().information, 0x8000_0b0d);
    assert_eq!(met.idt_vectoring.unwrap().information, 0x8000_0480);
    assert_eq!(met.instruction_length, 2);
}

#[test]
fn what_a_fault_meets_is_intercepted_before_it_makes_a_double_fault() {
    let mut machine = Machine::long();
    machine.poke(IDT + 14 * 16, 8, 0);
    enter(&mut machine, 1 << 13);
    let delivered = machine.core().deliver_exception(Exception::page_fault(0x5000, 2));
    let met = exit(&mut machine, delivered);
    assert_eq!(met.interruption.unwrap().information, 0x8000_0b0d);
    assert_eq!(met.idt_vectoring.unwrap().information, 0x8000_0b0e);
    let page_fault = Interruption { information: 0x8000_0b0e, error_code: 2, instruction_length: 0 };
    let injected = machine.core().inject(page_fault);
    let met = exit(&mut machine, injected);
    assert_eq!(met.interruption.unwrap().information, 0x8000_0b0d);
    assert_eq!(met.idt_vectoring.unwrap().information, 0x8000_0b0e);
}

#[test]
fn int_n_is_not_an_exception() {
    let mut machine = Machine::long();
    enter(&mut machine, u32::MAX);
    machine.core().software_interrupt(0x80, 0x1236).unwrap();
    assert_eq!(machine.state.vmx.delivering, None);
    let result = machine.core().icebp(0x1235);
    let debug = exit(&mut machine, result);
    assert_eq!(debug.interruption.unwrap().information, 0x8000_0501);
    assert_eq!(debug.idt_vectoring, None);
}

#[test]
fn a_debug_exception_tells_what_dr6_would_have_shown() {
    let mut machine = Machine::long();
    enter(&mut machine, 1 << 1);
    let before = machine.state.dr;
    let result = machine.core().deliver_exception(Exception::debug_trap(0x4001));
    assert_eq!(exit(&mut machine, result).qualification, 0x4001);
    assert_eq!(machine.state.dr, before);
}

#[test]
fn iret_unblocks_nmis_as_the_controls_say() {
    for (controls, blocked) in
        [(0, false), (pin::NMI_EXITING, true), (pin::NMI_EXITING | pin::VIRTUAL_NMIS, false)]
    {
        let mut machine = Machine::long();
        enter(&mut machine, 0);
        machine.core().deliver_interrupt(0x60).unwrap();
        machine.state.nmi_blocked = true;
        machine.state.vmx.interceptions.pin = controls;
        machine.core().iret(64, NEXT).unwrap();
        assert_eq!(machine.state.nmi_blocked, blocked);
    }
}

#[test]
fn vmx_operation_keeps_its_control_registers() {
    let mut machine = Machine::long();
    machine.state.vmx.operation = Operation::Root;
    machine.state.cr4 |= cr4::VMXE;
    let control = machine.state.cr0;
    assert_eq!(machine.core().write_cr(0, control & !cr0::NE), Err(general_protection(0)));
    assert_eq!(machine.core().write_cr(0, control & !cr0::WP), Ok(()));
    let control = machine.state.cr4;
    assert_eq!(machine.core().write_cr(4, control & !cr4::VMXE), Err(general_protection(0)));
}
