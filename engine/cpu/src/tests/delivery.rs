//! Facts about the delivery of exceptions and interrupts (SDM vol. 3, chapter 6).

use super::*;
use gasang_x86::control::debug;
use gasang_x86::rflags;

const DF: u64 = 8;
const GP: u64 = 13;
const PF: u64 = 14;

/// The `count` values of 8 bytes on the stack, from its top.
fn frame(machine: &Machine, count: u64) -> Vec<u64> {
    (0..count).map(|index| machine.peek(machine.rsp() + index * 8, 8)).collect()
}

fn idt_entry(machine: &mut Machine, vector: u64, low: u64) {
    machine.poke(IDT + vector * 16, 8, low);
}

#[test]
fn an_interrupt_in_64bit_mode_saves_ss_and_rsp_always_and_aligns_the_stack() {
    let mut machine = Machine::long();
    machine.state.gpr[gpr::RSP] = STACK - 3;
    machine.state.rflags |= rflags::IF | rflags::TF;
    let flags = machine.state.rflags;
    machine.core().deliver_interrupt(0x40).unwrap();
    assert_eq!(machine.rsp(), (STACK - 3) / 16 * 16 - 40);
    let saved = [0x1234, u64::from(KERNEL_CODE), flags, STACK - 3, u64::from(KERNEL_DATA)];
    assert_eq!(frame(&machine, 5), saved);
    assert_eq!(machine.state.rip, handler(0x40));
    assert_eq!(machine.state.rflags & (rflags::IF | rflags::TF), 0);
    assert_eq!(machine.selector(segment::SS), KERNEL_DATA);
}

#[test]
fn an_interrupt_from_the_user_takes_the_stack_of_the_tss_and_a_null_ss() {
    let mut machine = Machine::long();
    machine.enter_user(USER_CODE);
    machine.core().deliver_interrupt(0x40).unwrap();
    assert_eq!(machine.rsp(), STACK0 - 40);
    assert_eq!(frame(&machine, 5)[3..], [STACK, u64::from(USER_DATA)]);
    assert_eq!(machine.selector(segment::SS), 0);
    assert_eq!(machine.state.cpl(), 0);
    assert_eq!(machine.selector(segment::CS), KERNEL_CODE);
}

#[test]
fn ist_switches_stack_even_at_the_same_privilege() {
    let mut machine = Machine::long();
    idt_entry(&mut machine, 2, gate(KERNEL_CODE, handler(2), system::INTERRUPT_GATE, 0, 1));
    machine.core().deliver_nmi().unwrap();
    assert_eq!(machine.rsp(), STACK_IST1 - 40);
    assert_eq!(machine.selector(segment::SS), KERNEL_DATA, "SS changes with privilege only");
    assert!(machine.state.nmi_blocked);
}

#[test]
fn a_trap_gate_leaves_interrupts_enabled() {
    let mut machine = Machine::long();
    idt_entry(&mut machine, 3, gate(KERNEL_CODE, handler(3), system::TRAP_GATE, 3, 0));
    machine.enter_user(USER_CODE);
    machine.core().software_exception(3, 0x1235).unwrap();
    assert_ne!(machine.state.rflags & rflags::IF, 0);
    assert_eq!(frame(&machine, 1), [0x1235]);
}

#[test]
fn a_fault_saves_its_own_address_with_rf_set_and_its_error_code() {
    let mut machine = Machine::long();
    machine.core().deliver_exception(Exception::page_fault(0xdead_b000, 2)).unwrap();
    assert_eq!(machine.state.cr2, 0xdead_b000);
    assert_eq!(machine.state.rip, handler(PF));
    let saved = frame(&machine, 4);
    assert_eq!(saved[..2], [2, 0x1234]);
    assert_ne!(saved[3] & rflags::RF, 0);
    assert_eq!(machine.state.rflags & rflags::RF, 0);
}

#[test]
fn a_debug_trap_records_its_cause_and_releases_general_detect() {
    let mut machine = Machine::long();
    machine.state.dr[7] |= debug::DR7_GD;
    machine.state.dr[6] |= 3;
    machine.core().deliver_exception(Exception::debug_trap(debug::DR6_BS)).unwrap();
    assert_eq!(machine.state.dr[6], debug::DR6_FIXED | debug::DR6_BS);
    assert_eq!(machine.state.dr[7] & debug::DR7_GD, 0);
    assert_eq!(frame(&machine, 3)[2] & rflags::RF, 0);
}

#[test]
fn int_n_needs_the_gates_privilege() {
    let mut machine = Machine::long();
    machine.enter_user(USER_CODE);
    let before = machine.state.clone();
    let refused = machine.core().software_interrupt(0x80, 0x1236);
    assert_eq!(refused, Err(general_protection(0x80 * 8 + 2)));
    assert_eq!((machine.state.rip, machine.rsp()), (before.rip, before.gpr[gpr::RSP]));
    machine.core().deliver_interrupt(0x80).unwrap();
    assert_eq!(machine.state.rip, handler(0x80), "an external interrupt does not");
}

#[test]
fn icebp_ignores_the_gates_privilege() {
    let mut machine = Machine::long();
    machine.enter_user(USER_CODE);
    machine.state.rflags |= rflags::RF;
    machine.core().icebp(0x1235).unwrap();
    assert_eq!(machine.state.rip, handler(1));
    let saved = frame(&machine, 3);
    assert_eq!((saved[0], saved[2] & rflags::RF), (0x1235, 0), "RF ends with the instruction");
}

#[test]
fn a_gate_that_is_missing_faults_with_its_entry() {
    let mut machine = Machine::long();
    idt_entry(&mut machine, 0x40, 0);
    machine.core().deliver_interrupt(0x40).unwrap();
    assert_eq!(machine.state.rip, handler(GP));
    assert_eq!(frame(&machine, 1), [0x40 * 8 + 3], "IDT and external");
    let absent = gate(KERNEL_CODE, handler(3), system::INTERRUPT_GATE, 0, 0) & !(1 << 47);
    idt_entry(&mut machine, 0x41, absent);
    assert_eq!(
        machine.core().software_interrupt(0x41, 0),
        Err(Exception::not_present(0x41 * 8 + 2).into()),
        "not external for INT n"
    );
}

#[test]
fn double_fault_on_contributory() {
    let mut machine = Machine::long();
    idt_entry(&mut machine, GP, 0);
    machine.core().deliver_exception(Exception::general_protection(0x10)).unwrap();
    assert_eq!(machine.state.rip, handler(DF));
    assert_eq!(frame(&machine, 1), [0]);
}

#[test]
fn a_page_fault_during_a_page_fault_is_a_double_fault() {
    let mut machine = Machine::long();
    idt_entry(&mut machine, DF, gate(KERNEL_CODE, handler(DF), system::INTERRUPT_GATE, 0, 1));
    machine.state.gpr[gpr::RSP] = 0x70_0000_0000;
    machine.core().deliver_exception(Exception::page_fault(0x1000, 0)).unwrap();
    assert_eq!(machine.state.rip, handler(DF));
    assert_eq!(machine.rsp(), STACK_IST1 - 48);
    assert_eq!(machine.state.cr2, 0x70_0000_0000 - 8);
}

#[test]
fn a_page_fault_during_a_contributory_fault_is_just_that() {
    let mut machine = Machine::long();
    idt_entry(&mut machine, PF, gate(KERNEL_CODE, handler(PF), system::INTERRUPT_GATE, 0, 1));
    machine.state.gpr[gpr::RSP] = 0x70_0000_0000;
    machine.core().deliver_exception(Exception::general_protection(0)).unwrap();
    assert_eq!(machine.state.rip, handler(PF));
}

#[test]
fn a_fault_after_a_benign_one_is_delivered_in_its_place() {
    let mut machine = Machine::long();
    idt_entry(&mut machine, 6, 0);
    machine.core().deliver_exception(Exception::invalid_opcode()).unwrap();
    assert_eq!(machine.state.rip, handler(GP));
}

#[test]
fn a_fault_during_a_double_fault_shuts_down() {
    let mut machine = Machine::long();
    machine.state.idtr.limit = 0;
    assert_eq!(machine.core().deliver_exception(Exception::divide()), Err(Trap::Shutdown));
    assert_eq!(machine.state.activity, Activity::Shutdown);
}

#[test]
fn a_non_canonical_stack_is_a_stack_fault() {
    let mut machine = Machine::long();
    idt_entry(&mut machine, 12, gate(KERNEL_CODE, handler(12), system::INTERRUPT_GATE, 0, 1));
    machine.state.gpr[gpr::RSP] = 0x8000_0000_0010;
    machine.core().deliver_interrupt(0x40).unwrap();
    assert_eq!(machine.state.rip, handler(12));
    assert_eq!(frame(&machine, 1), [1], "external");
}

#[test]
fn a_frame_that_faults_half_way_writes_nothing() {
    let mut machine = Machine::long();
    let edge = 0x50_0000_0000;
    machine.map(edge, 0x20_0000, OPEN);
    machine.state.gpr[gpr::RSP] = edge + 16;
    idt_entry(&mut machine, PF, gate(KERNEL_CODE, handler(PF), system::INTERRUPT_GATE, 0, 1));
    machine.core().deliver_interrupt(0x40).unwrap();
    assert_eq!(machine.state.rip, handler(PF));
    assert_eq!(machine.peek(0x20_0000, 8), 0);
    assert_eq!(machine.state.cr2, edge - 8);
}

#[test]
fn smap_guards_the_frame_even_under_ac() {
    let mut machine = Machine::long();
    for page in [TSS, GDT, IDT, STACK_IST1 - 1] {
        machine.map(page & !0xfff, page & !0xfff, entry::PRESENT | entry::WRITABLE);
    }
    machine.state.cr4 |= cr4::SMAP;
    machine.tlb.flush_all();
    machine.enter_user(USER_CODE);
    machine.state.rflags |= rflags::AC;
    idt_entry(&mut machine, DF, gate(KERNEL_CODE, handler(DF), system::INTERRUPT_GATE, 0, 1));
    idt_entry(&mut machine, PF, gate(KERNEL_CODE, handler(PF), system::INTERRUPT_GATE, 0, 1));
    machine.core().deliver_interrupt(0x40).unwrap();
    assert_eq!(machine.state.rip, handler(PF), "STACK0 is the user's page");
    assert_eq!(machine.state.cr2, STACK0 - 8);
}

#[test]
fn compatibility_mode_is_interrupted_onto_a_stack_beyond_four_gib() {
    let mut machine = Machine::long();
    let top = 0xffff_c000_0000_1010;
    machine.map(0xffff_c000_0000_0000, 0x20_0000, OPEN);
    machine.map(0xffff_c000_0000_1000, 0x20_1000, OPEN);
    machine.poke(TSS + 4, 8, top);
    machine.enter_user(USER_CODE32);
    machine.core().deliver_interrupt(0x40).unwrap();
    assert_eq!(machine.rsp(), top - 40);
    assert_eq!(machine.peek(0x20_0fe8, 8), 0x1234);
    assert_eq!(machine.peek(0x20_1008, 8), u64::from(USER_DATA), "across pages");
    assert!(machine.state.in_64bit_mode());
}

#[test]
fn an_interrupt_wakes_a_halted_processor_and_ends_shadows() {
    let mut machine = Machine::long();
    machine.core().hlt().unwrap();
    machine.state.shadow = Shadow::Sti;
    machine.core().deliver_interrupt(0x40).unwrap();
    assert_eq!(machine.state.activity, Activity::Active);
    assert_eq!(machine.state.shadow, Shadow::None);
}

#[test]
fn loading_the_handlers_segment_marks_it_accessed() {
    let mut machine = Machine::long();
    let descriptor = GDT + u64::from(KERNEL_CODE);
    assert_eq!(machine.peek(descriptor + 5, 1) & 1, 0);
    machine.core().deliver_interrupt(0x40).unwrap();
    assert_eq!(machine.peek(descriptor + 5, 1) & 1, 1);
}
