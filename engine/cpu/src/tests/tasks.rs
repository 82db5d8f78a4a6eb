//! Facts about hardware task switches (SDM vol. 3, chapter 7).

use super::*;
use gasang_x86::control::debug;
use gasang_x86::rflags;

const OTHER: u64 = 0x4000;
const OTHER_STACK: u64 = 0x4c00;
const EIP: u64 = 0x4567;

fn type_of(machine: &Machine, selector: u16) -> u32 {
    machine.peek(GDT + u64::from(selector) + 5, 1) as u32 & 0xf
}

/// Protected mode with a second, 32-bit task behind `FREE`.
fn machine() -> Machine {
    let mut machine = Machine::protected();
    machine.set_descriptor(FREE, descriptor(OTHER, 0x67, system::TSS_AVAILABLE | access::PRESENT));
    machine.poke(OTHER + 0x20, 4, EIP);
    machine.poke(OTHER + 0x24, 4, rflags::CF | 2);
    machine.poke_all(OTHER + 0x28, 4, &[10, 11, 12, 13, OTHER_STACK, 15, 16, 17]);
    let (code, data) = (u64::from(KERNEL_CODE), u64::from(KERNEL_DATA));
    machine.poke_all(OTHER + 0x48, 4, &[data, code, data, data, 0, 0, 0]);
    machine
}

#[test]
fn a_jump_to_a_tss_exchanges_the_registers() {
    let mut machine = machine();
    machine.state.gpr[gpr::RAX] = 99;
    machine.state.dr[7] |= 3;
    machine.core().far_jump(FREE, 0, 32, 0x1240).unwrap();
    assert_eq!((machine.state.rip, machine.rsp()), (EIP, OTHER_STACK));
    assert_eq!(machine.state.gpr[..4], [10, 11, 12, 13]);
    assert_eq!(machine.state.rflags, rflags::CF | 2);
    assert_eq!(machine.state.tr.selector, FREE);
    assert_ne!(machine.state.cr0 & cr0::TS, 0);
    assert_eq!(machine.state.dr[7] & debug::DR7_ENABLED, 2, "local breakpoints end");
    assert_eq!(machine.peek(TSS + 0x20, 4), 0x1240);
    assert_eq!(machine.peek(TSS + 0x28, 4), 99);
    assert_eq!(machine.peek(TSS + 0x4c, 2), u64::from(KERNEL_CODE));
    assert_eq!(type_of(&machine, TSS_SELECTOR), system::TSS_AVAILABLE);
    assert_eq!(type_of(&machine, FREE), system::TSS_BUSY);
}

#[test]
fn a_call_nests_and_iret_returns() {
    let mut machine = machine();
    machine.core().far_call(FREE, 0, 32, 0x1240).unwrap();
    assert_ne!(machine.state.rflags & rflags::NT, 0);
    assert_eq!(machine.peek(OTHER, 2), u64::from(TSS_SELECTOR));
    assert_eq!(type_of(&machine, TSS_SELECTOR), system::TSS_BUSY);
    machine.core().iret(32, 0x4570).unwrap();
    assert_eq!((machine.state.rip, machine.state.tr.selector), (0x1240, TSS_SELECTOR));
    assert_eq!(machine.peek(OTHER + 0x20, 4), 0x4570);
    assert_eq!(machine.peek(OTHER + 0x24, 4) & rflags::NT, 0);
    assert_eq!(type_of(&machine, FREE), system::TSS_AVAILABLE);
}

#[test]
fn a_busy_task_cannot_be_entered() {
    let mut machine = machine();
    let refused = general_protection(u32::from(TSS_SELECTOR));
    assert_eq!(machine.core().far_jump(TSS_SELECTOR, 0, 32, 0), Err(refused));
}

#[test]
fn a_short_tss_is_invalid() {
    let mut machine = machine();
    machine.set_descriptor(FREE, descriptor(OTHER, 0x66, system::TSS_AVAILABLE | access::PRESENT));
    let invalid = Exception::invalid_tss(u32::from(FREE)).into();
    assert_eq!(machine.core().far_jump(FREE, 0, 32, 0), Err(invalid));
    assert_eq!(machine.state.rip, 0x1234);
}

#[test]
fn a_fault_through_a_task_gate_pushes_its_error_code_on_the_new_stack() {
    let mut machine = machine();
    machine.poke(IDT + 13 * 8, 8, gate(FREE, 0, system::TASK_GATE, 0, 0));
    machine.core().deliver_exception(Exception::general_protection(0x18)).unwrap();
    assert_eq!((machine.state.rip, machine.rsp()), (EIP, OTHER_STACK - 4));
    assert_eq!(machine.peek(OTHER_STACK - 4, 4), 0x18);
    assert_ne!(machine.peek(TSS + 0x24, 4) & rflags::RF, 0);
    assert_eq!(machine.peek(TSS + 0x20, 4), 0x1234);
}

#[test]
fn a_task_with_a_bad_segment_faults_as_itself() {
    let mut machine = machine();
    machine.poke(OTHER + 0x54, 2, u64::from(KERNEL_CODE | 4));
    let invalid = Exception::invalid_tss(u32::from(KERNEL_CODE | 4)).into();
    assert_eq!(machine.core().far_jump(FREE, 0, 32, 0), Err(invalid));
    assert_eq!((machine.state.rip, machine.state.tr.selector), (EIP, FREE));
}

#[test]
fn the_trap_bit_raises_a_debug_trap() {
    let mut machine = machine();
    machine.poke(OTHER + 100, 2, 1);
    machine.core().far_jump(FREE, 0, 32, 0).unwrap();
    assert_eq!(machine.state.pending_debug, debug::DR6_BT);
}

#[test]
fn a_16bit_task_has_a_smaller_tss() {
    let mut machine = Machine::protected();
    machine.set_descriptor(FREE, descriptor(OTHER, 0x2b, system::TSS16_AVAILABLE | access::PRESENT));
    machine.poke_all(OTHER + 0x0e, 2, &[EIP, 2, 10, 11, 12, 13, OTHER_STACK, 15, 16, 17]);
    let (code, data) = (u64::from(KERNEL_CODE), u64::from(KERNEL_DATA));
    machine.poke_all(OTHER + 0x22, 2, &[data, code, data, data, 0]);
    machine.core().far_call(FREE, 0, 32, 0x1240).unwrap();
    assert_eq!((machine.state.rip, machine.rsp(), machine.state.gpr[gpr::RBX]), (EIP, OTHER_STACK, 13));
    assert_eq!(machine.peek(OTHER, 2), u64::from(TSS_SELECTOR));
    machine.core().iret(32, 0x4570).unwrap();
    assert_eq!(machine.state.rip, 0x1240);
    assert_eq!(machine.peek(OTHER + 0x0e, 2), 0x4570);
}

#[test]
fn a_task_brings_its_page_directory() {
    let mut machine = machine();
    let directory = machine.new_table();
    let other = machine.new_table();
    for table in [directory, other] {
        machine.poke(table, 4, OPEN | entry::PAGE_SIZE);
    }
    machine.poke(OTHER + 0x1c, 4, other);
    let mut core = machine.core();
    core.write_cr(4, cr4::PSE).unwrap();
    core.write_cr(3, directory).unwrap();
    core.write_cr(0, cr0::PE | cr0::PG).unwrap();
    core.far_jump(FREE, 0, 32, 0x1240).unwrap();
    assert_eq!(core.state.cr3, other);
}

#[test]
fn task_gates_do_not_exist_in_ia32e_mode() {
    let mut machine = Machine::long();
    machine.set_descriptor(FREE, gate(TSS_SELECTOR, 0, system::TASK_GATE, 3, 0));
    assert_eq!(machine.core().far_call(FREE, 0, 64, 0), Err(general_protection(u32::from(FREE))));
}
