//! Facts about far JMP and CALL (SDM vol. 3, 5.8).

use super::*;

#[test]
fn a_far_call_saves_cs_and_the_next_instruction() {
    let mut machine = Machine::long();
    machine.core().far_call(KERNEL_CODE, 0x4567, 64, 0x1240).unwrap();
    assert_eq!(machine.state.rip, 0x4567);
    assert_eq!(machine.rsp(), STACK - 16);
    assert_eq!(machine.peek(STACK - 16, 8), 0x1240);
    assert_eq!(machine.peek(STACK - 8, 8), u64::from(KERNEL_CODE));
    machine.core().far_return(64, 0).unwrap();
    assert_eq!((machine.state.rip, machine.rsp()), (0x1240, STACK));
}

#[test]
fn direct_transfers_keep_the_privilege() {
    let mut machine = Machine::long();
    let mut jump = |selector: u16| machine.core().far_jump(selector, 0x4567, 32, 0);
    assert_eq!(jump(USER_CODE), Err(general_protection(u32::from(USER_CODE & !3))));
    assert_eq!(jump(KERNEL_DATA), Err(general_protection(u32::from(KERNEL_DATA))));
    assert_eq!(jump(KERNEL_CODE | 3), Err(general_protection(u32::from(KERNEL_CODE))), "RPL above CPL");
    assert_eq!(jump(0), Err(general_protection(0)));
    assert_eq!(jump(KERNEL_CODE), Ok(()));
}

#[test]
fn conforming_code_runs_at_its_callers_privilege() {
    let mut machine = Machine::long();
    machine.set_descriptor(FREE, flat(CODE64 | access::CONFORMING, 0));
    machine.enter_user(USER_CODE);
    machine.core().far_jump(FREE, 0x4567, 64, 0).unwrap();
    assert_eq!((machine.selector(segment::CS), machine.state.cpl()), (FREE | 3, 3));
}

#[test]
fn a_jump_between_64bit_and_compatibility_mode_checks_the_target_of_its_kind() {
    let mut machine = Machine::long();
    machine.set_descriptor(FREE, flat(CODE32, 0));
    machine.core().far_jump(FREE, 0x4567, 32, 0).unwrap();
    assert_eq!(machine.state.code_bits(), 32);
    machine.core().far_jump(KERNEL_CODE, 0x4567, 32, 0).unwrap();
    assert!(machine.state.in_64bit_mode());
    assert_eq!(machine.core().far_jump(FREE, 0x1_0000_0000, 64, 0), Err(general_protection(0)));
    assert_eq!(machine.core().far_jump(KERNEL_CODE, 1 << 47, 64, 0), Err(general_protection(0)));
    machine.set_descriptor(FREE, flat(CODE64 | access::DB, 0));
    let reserved = general_protection(u32::from(FREE));
    assert_eq!(machine.core().far_jump(FREE, 0, 64, 0), Err(reserved), "L and D together");
}

#[test]
fn entry_beyond_the_limit_is_refused() {
    let mut machine = Machine::protected();
    machine.set_descriptor(FREE, descriptor(0x9000, 0xff, CODE32 | access::S | access::PRESENT));
    assert_eq!(machine.core().far_jump(FREE, 0x100, 32, 0), Err(general_protection(0)));
    machine.core().far_jump(FREE, 0x1_00ff, 16, 0).unwrap();
    assert_eq!(machine.state.rip, 0xff, "a 16-bit operand");
}

#[test]
fn a_call_gate_in_64bit_mode_switches_to_the_stack_of_the_tss() {
    let mut machine = Machine::long();
    let target = 0xffff_8000_0000_4000;
    machine.set_descriptor(FREE, gate(KERNEL_CODE, target, system::CALL_GATE, 3, 0));
    machine.set_descriptor(FREE + 8, target >> 32);
    machine.enter_user(USER_CODE);
    machine.core().far_call(FREE | 3, 0, 64, 0x1240).unwrap();
    assert_eq!((machine.state.rip, machine.state.cpl(), machine.selector(segment::SS)), (target, 0, 0));
    assert_eq!(machine.rsp(), STACK0 - 32);
    let saved = [0, 8, 16, 24].map(|at| machine.peek(STACK0 - 32 + at, 8));
    assert_eq!(saved, [0x1240, u64::from(USER_CODE), STACK, u64::from(USER_DATA)]);
    machine.core().far_return(64, 0).unwrap();
    assert_eq!((machine.state.cpl(), machine.rsp(), machine.state.rip), (3, STACK, 0x1240));
}

#[test]
fn a_call_gate_with_parameters_copies_them() {
    let mut machine = Machine::protected();
    machine.set_descriptor(FREE, gate(KERNEL_CODE, 0x4567, system::CALL_GATE, 3, 2));
    machine.enter_user(USER_CODE32);
    machine.state.gpr[gpr::RSP] = STACK - 8;
    machine.poke_all(STACK - 8, 4, &[0x1111, 0x2222]);
    machine.core().far_call(FREE, 0, 32, 0x1240).unwrap();
    assert_eq!(machine.rsp(), STACK0 - 24);
    let saved = [0, 4, 8, 12, 16, 20].map(|at| machine.peek(STACK0 - 24 + at, 4));
    let (code, stack) = (u64::from(USER_CODE32), u64::from(USER_DATA));
    assert_eq!(saved, [0x1240, code, 0x1111, 0x2222, STACK - 8, stack]);
    machine.core().far_return(32, 8).unwrap();
    assert_eq!((machine.state.cpl(), machine.rsp()), (3, STACK), "both stacks release the parameters");
}

#[test]
fn a_16bit_call_gate_pushes_words() {
    let mut machine = Machine::protected();
    machine.set_descriptor(FREE, gate(KERNEL_CODE, 0x4567, system::CALL_GATE16, 0, 0));
    machine.core().far_call(FREE, 0, 32, 0x1240).unwrap();
    assert_eq!((machine.state.rip, machine.rsp()), (0x4567, STACK - 4));
    assert_eq!(machine.peek(STACK - 4, 4), u64::from(KERNEL_CODE) << 16 | 0x1240);
}

#[test]
fn a_jump_through_a_gate_cannot_raise_privilege() {
    let mut machine = Machine::protected();
    machine.set_descriptor(FREE, gate(KERNEL_CODE, 0x4567, system::CALL_GATE, 3, 0));
    machine.enter_user(USER_CODE32);
    let refused = general_protection(u32::from(KERNEL_CODE));
    assert_eq!(machine.core().far_jump(FREE, 0, 32, 0), Err(refused));
}

#[test]
fn a_gate_needs_its_privilege_and_presence() {
    let mut machine = Machine::protected();
    let open = gate(KERNEL_CODE, 0x4567, system::CALL_GATE, 3, 0);
    machine.set_descriptor(FREE, open & !(3 << 45));
    machine.enter_user(USER_CODE32);
    assert_eq!(machine.core().far_call(FREE, 0, 32, 0), Err(general_protection(u32::from(FREE))));
    machine.set_descriptor(FREE, open & !(1 << 47));
    let absent = Exception::not_present(u32::from(FREE)).into();
    assert_eq!(machine.core().far_call(FREE, 0, 32, 0), Err(absent));
}

#[test]
fn real_mode_calls_and_returns_by_paragraph() {
    let mut machine = Machine::real();
    machine.core().load_segment(segment::SS, 0x100).unwrap();
    machine.state.gpr[gpr::RSP] = 2;
    machine.core().far_call(0x1234, 0x5678, 16, 0x9abc).unwrap();
    let code = machine.state.segment[segment::CS];
    assert_eq!((code.base, code.selector, machine.state.rip), (0x12340, 0x1234, 0x5678));
    assert_eq!(machine.rsp(), 0xfffe, "the stack pointer wrapped between the two");
    assert_eq!(machine.peek(0x1000, 2), 0xf000);
    assert_eq!(machine.peek(0x1000 + 0xfffe, 2), 0x9abc);
    machine.core().far_return(16, 0).unwrap();
    assert_eq!((machine.state.rip, machine.rsp(), machine.selector(segment::CS)), (0x9abc, 2, 0xf000));
    assert_eq!(machine.core().far_jump(0, 0x1_0000, 32, 0), Err(general_protection(0)));
}
