//! Facts about events and returns outside IA-32e mode (SDM vol. 3, 6.12, 20.1, 20.3).

use super::*;
use gasang_x86::rflags;

fn words(machine: &Machine, at: u64, width: usize, count: usize) -> Vec<u64> {
    (0..count).map(|index| machine.peek(at + (index * width) as u64, width)).collect()
}

#[test]
fn a_32bit_interrupt_at_the_same_privilege_saves_three_values() {
    let mut machine = Machine::protected();
    machine.core().deliver_interrupt(0x40).unwrap();
    assert_eq!((machine.state.rip, machine.rsp()), (handler(0x40), STACK - 12));
    assert_eq!(words(&machine, STACK - 12, 4, 3), [0x1234, u64::from(KERNEL_CODE), 2]);
    machine.core().iret(32, 0).unwrap();
    assert_eq!((machine.state.rip, machine.rsp()), (0x1234, STACK));
}

#[test]
fn a_16bit_gate_saves_words() {
    let mut machine = Machine::protected();
    machine.poke(IDT + 0x40 * 8, 8, gate(KERNEL_CODE, 0x4567, system::INTERRUPT_GATE16, 0, 0));
    machine.core().deliver_interrupt(0x40).unwrap();
    assert_eq!((machine.state.rip, machine.rsp()), (0x4567, STACK - 6));
    assert_eq!(words(&machine, STACK - 6, 2, 3), [0x1234, u64::from(KERNEL_CODE), 2]);
}

#[test]
fn an_interrupt_from_the_user_goes_to_the_stack_of_the_tss_and_back() {
    let mut machine = Machine::protected();
    machine.enter_user(USER_CODE32);
    machine.core().deliver_exception(Exception::general_protection(0x18)).unwrap();
    assert_eq!((machine.rsp(), machine.selector(segment::SS)), (STACK0 - 24, KERNEL_DATA));
    let flags = rflags::IF | rflags::RF | rflags::FIXED;
    let saved = [0x18, 0x1234, u64::from(USER_CODE32), flags, STACK, u64::from(USER_DATA)];
    assert_eq!(words(&machine, STACK0 - 24, 4, 6), saved);
    machine.state.gpr[gpr::RSP] += 4;
    machine.core().iret(32, 0).unwrap();
    assert_eq!((machine.state.cpl(), machine.rsp(), machine.state.rip), (3, STACK, 0x1234));
}

#[test]
fn a_bad_stack_in_the_tss_is_an_invalid_tss() {
    let mut machine = Machine::protected();
    machine.poke(TSS + 8, 4, u64::from(USER_DATA));
    machine.enter_user(USER_CODE32);
    machine.core().deliver_interrupt(0x40).unwrap_err();
    assert_eq!(machine.state.activity, Activity::Shutdown, "no handler has a stack");
    let mut machine = Machine::protected();
    machine.set_descriptor(FREE, gate(KERNEL_CODE, 0x4567, system::CALL_GATE, 3, 0));
    machine.poke(TSS + 8, 4, u64::from(USER_DATA));
    machine.enter_user(USER_CODE32);
    let invalid = Exception::invalid_tss(u32::from(USER_DATA & !3)).into();
    assert_eq!(machine.core().far_call(FREE, 0, 32, 0), Err(invalid));
}

#[test]
fn virtual_8086_interrupts_save_every_segment_and_come_back() {
    let mut machine = Machine::protected();
    machine.enter_virtual_8086(3);
    machine.state.segment[segment::GS].selector = 0x777;
    let before = machine.state.clone();
    machine.core().deliver_interrupt(0x40).unwrap();
    assert_eq!(machine.state.cpl(), 0);
    assert!(!machine.state.virtual_8086());
    assert_eq!(machine.rsp(), STACK0 - 36);
    let flags = before.rflags;
    let saved = [0x10, 0x100, flags, 0x800, 0x100, 0x100, 0x100, 0x100, 0x777];
    assert_eq!(words(&machine, STACK0 - 36, 4, 9), saved);
    assert!(!machine.state.segment[segment::GS].usable());
    machine.core().iret(32, 0).unwrap();
    assert_eq!((machine.state.rip, machine.rsp(), machine.state.rflags), (0x10, 0x800, flags));
    assert_eq!(machine.state.segment[segment::GS].base, 0x7770);
    assert_eq!((machine.state.cpl(), machine.state.code_bits()), (3, 16));
}

#[test]
fn virtual_8086_int_n_needs_iopl_3() {
    let mut machine = Machine::protected();
    machine.poke(IDT + 0x21 * 8, 8, gate(KERNEL_CODE, handler(0x21), system::INTERRUPT_GATE, 3, 0));
    machine.enter_virtual_8086(0);
    assert_eq!(machine.core().software_interrupt(0x21, 0x12), Err(general_protection(0)));
    machine.enter_virtual_8086(3);
    machine.core().software_interrupt(0x21, 0x12).unwrap();
    assert_eq!(machine.state.rip, handler(0x21));
}

#[test]
fn vme_redirects_int_n_to_the_table_of_virtual_8086_mode() {
    let mut machine = Machine::protected();
    machine.state.cr4 |= cr4::VME;
    machine.poke(TSS + 102, 2, 0x200);
    machine.poke(0x21 * 4, 4, 0x0300_0044);
    machine.enter_virtual_8086(0);
    machine.state.rflags |= rflags::VIF | rflags::IF;
    machine.core().software_interrupt(0x21, 0x12).unwrap();
    assert_eq!((machine.selector(segment::CS), machine.state.rip), (0x300, 0x44));
    assert!(machine.state.virtual_8086());
    assert_eq!(machine.state.rflags & (rflags::VIF | rflags::IF), rflags::IF);
    let stack = 0x1000 + 0x800 - 6;
    assert_eq!(words(&machine, stack, 2, 2), [0x12, 0x100]);
    assert_eq!(machine.peek(stack + 4, 2), rflags::IF | rflags::IOPL | 2);
    machine.core().iret(16, 0).unwrap();
    assert_ne!(machine.state.rflags & rflags::VIF, 0);
    machine.poke(TSS + 0x200 - 32 + 0x21 / 8, 1, 1 << (0x21 % 8));
    assert_eq!(machine.core().software_interrupt(0x21, 0x12), Err(general_protection(0)));
}

#[test]
fn real_mode_interrupts_go_through_far_pointers() {
    let mut machine = Machine::real();
    machine.poke(0x10 * 4, 4, 0x0300_0044);
    machine.core().load_segment(segment::SS, 0x100).unwrap();
    machine.state.gpr[gpr::RSP] = 0xabcd_0800;
    machine.state.rip = 0x55;
    machine.state.rflags |= rflags::IF;
    machine.core().software_interrupt(0x10, 0x57).unwrap();
    assert_eq!((machine.selector(segment::CS), machine.state.rip), (0x300, 0x44));
    assert_eq!(machine.rsp(), 0xabcd_07fa, "a 16-bit stack keeps the rest of ESP");
    assert_eq!(words(&machine, 0x17fa, 2, 3), [0x57, 0xf000, rflags::IF | 2]);
    assert_eq!(machine.state.rflags & rflags::IF, 0);
    machine.core().iret(16, 0).unwrap();
    assert_eq!((machine.state.rip, machine.state.rflags), (0x57, rflags::IF | 2));
}

#[test]
fn real_mode_without_a_vector_shuts_down() {
    let mut machine = Machine::real();
    machine.state.idtr.limit = 3;
    assert_eq!(machine.core().deliver_interrupt(0x10), Err(Trap::Shutdown));
}

#[test]
fn real_mode_pushes_no_error_code() {
    let mut machine = Machine::real();
    machine.poke(13 * 4, 4, 0x0300_0044);
    machine.state.gpr[gpr::RSP] = 0x800;
    machine.core().deliver_exception(Exception::general_protection(0)).unwrap();
    assert_eq!(machine.rsp(), 0x7fa);
}
