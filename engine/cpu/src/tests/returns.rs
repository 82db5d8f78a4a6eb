//! Facts about IRET and far RET in IA-32e mode (SDM vol. 2).

use super::*;
use gasang_x86::rflags;

/// A frame for IRETQ on the stack.
fn push_frame(machine: &mut Machine, code: u16, flags: u64, rsp: u64, ss: u16) {
    machine.state.gpr[gpr::RSP] = STACK - 40;
    machine.poke_all(STACK - 40, 8, &[0x4567, u64::from(code), flags, rsp, u64::from(ss)]);
}

fn iret(machine: &mut Machine) -> Result<(), Trap> {
    machine.core().iret(64, 0)
}

#[test]
fn iret_to_outer_ring_reloads_ss() {
    let mut machine = Machine::long();
    push_frame(&mut machine, USER_CODE, 0x202, 0x1_2345_6789, USER_DATA);
    iret(&mut machine).unwrap();
    assert_eq!(machine.state.cpl(), 3);
    assert_eq!((machine.selector(segment::CS), machine.selector(segment::SS)), (USER_CODE, USER_DATA));
    assert_eq!((machine.state.rip, machine.rsp()), (0x4567, 0x1_2345_6789));
    assert_eq!(machine.state.rflags, 0x202);
}

#[test]
fn an_outward_return_empties_the_segments_of_the_kernel() {
    let mut machine = Machine::long();
    machine.core().load_segment(segment::ES, USER_DATA).unwrap();
    push_frame(&mut machine, USER_CODE, 2, STACK, USER_DATA);
    iret(&mut machine).unwrap();
    assert_eq!(machine.selector(segment::DS), 0);
    assert!(!machine.state.segment[segment::DS].usable());
    assert_eq!(machine.selector(segment::ES), USER_DATA);
}

#[test]
fn iret_to_compatibility_mode_truncates_the_stack_pointer() {
    let mut machine = Machine::long();
    push_frame(&mut machine, USER_CODE32, 2, 0x1_2345_6789, USER_DATA);
    iret(&mut machine).unwrap();
    assert_eq!(machine.rsp(), 0x2345_6789);
    assert_eq!(machine.state.code_bits(), 32);
}

#[test]
fn iret_in_64bit_mode_pops_the_stack_even_at_the_same_privilege() {
    let mut machine = Machine::long();
    push_frame(&mut machine, KERNEL_CODE, 2, 0x6800, KERNEL_DATA);
    iret(&mut machine).unwrap();
    assert_eq!(machine.rsp(), 0x6800);
}

#[test]
fn a_null_ss_is_right_in_64bit_mode_below_cpl_3() {
    let mut machine = Machine::long();
    push_frame(&mut machine, KERNEL_CODE, 2, 0x6800, 0);
    iret(&mut machine).unwrap();
    assert_eq!((machine.selector(segment::SS), machine.state.cpl()), (0, 0));
    push_frame(&mut machine, USER_CODE, 2, 0x6800, 3);
    assert_eq!(iret(&mut machine), Err(general_protection(0)));
}

#[test]
fn a_stack_of_another_privilege_is_refused() {
    let mut machine = Machine::long();
    push_frame(&mut machine, USER_CODE, 2, 0x6800, KERNEL_DATA);
    assert_eq!(iret(&mut machine), Err(general_protection(u32::from(KERNEL_DATA))));
    assert_eq!(machine.state.rip, 0x1234);
    assert_eq!(machine.rsp(), STACK - 40);
}

#[test]
fn a_non_canonical_target_faults_in_the_kernel() {
    let mut machine = Machine::long();
    push_frame(&mut machine, USER_CODE, 2, 0x6800, USER_DATA);
    machine.poke(STACK - 40, 8, 0x8000_0000_0000);
    assert_eq!(iret(&mut machine), Err(general_protection(0)));
    assert_eq!(machine.state.cpl(), 0);
}

#[test]
fn iret_to_an_inner_ring_is_refused() {
    let mut machine = Machine::long();
    machine.enter_user(USER_CODE);
    push_frame(&mut machine, KERNEL_CODE, 2, 0x6800, KERNEL_DATA);
    assert_eq!(iret(&mut machine), Err(general_protection(u32::from(KERNEL_CODE))));
}

#[test]
fn the_user_changes_neither_iopl_nor_if() {
    let mut machine = Machine::long();
    machine.enter_user(USER_CODE);
    push_frame(&mut machine, USER_CODE, rflags::IOPL | rflags::CF | 2, 0x6800, USER_DATA);
    iret(&mut machine).unwrap();
    assert_eq!(machine.state.rflags, rflags::IF | rflags::CF | 2);
}

#[test]
fn nmi_unblocked_by_iret() {
    let mut machine = Machine::long();
    machine.core().deliver_nmi().unwrap();
    assert!(machine.state.nmi_blocked);
    iret(&mut machine).unwrap();
    assert!(!machine.state.nmi_blocked);
    assert_eq!((machine.state.rip, machine.rsp()), (0x1234, STACK));
}

#[test]
fn a_nested_task_cannot_return_in_ia32e_mode() {
    let mut machine = Machine::long();
    push_frame(&mut machine, KERNEL_CODE, 2, 0x6800, 0);
    machine.state.rflags |= rflags::NT;
    assert_eq!(iret(&mut machine), Err(general_protection(0)));
}

#[test]
fn rf_comes_back_from_the_frame() {
    let mut machine = Machine::long();
    push_frame(&mut machine, KERNEL_CODE, rflags::RF | 2, 0x6800, 0);
    iret(&mut machine).unwrap();
    assert_ne!(machine.state.rflags & rflags::RF, 0);
}

#[test]
fn far_return_to_the_user_releases_parameters_on_both_stacks() {
    let mut machine = Machine::long();
    machine.state.gpr[gpr::RSP] = STACK - 48;
    let code = u64::from(USER_CODE);
    machine.poke_all(STACK - 48, 8, &[0x4567, code, 0xaaaa, 0xbbbb, 0x5000, u64::from(USER_DATA)]);
    machine.core().far_return(64, 16).unwrap();
    assert_eq!((machine.state.rip, machine.rsp(), machine.state.cpl()), (0x4567, 0x5010, 3));
}

#[test]
fn a_16bit_stack_receives_16_bits_of_the_pointer() {
    let mut machine = Machine::long();
    machine.set_descriptor(FREE, flat(access::WRITABLE, 3));
    push_frame(&mut machine, USER_CODE32, 2, 0xabcd_9876, FREE | 3);
    machine.state.gpr[gpr::RSP] = STACK - 40;
    iret(&mut machine).unwrap();
    assert_eq!(machine.rsp(), 0x9876, "bits 31:16 are those of the old pointer");
}
