//! Facts about the fast system calls (SDM vol. 3, 5.8.7, 5.8.8).

use super::*;
use gasang_x86::{msr, rflags};

fn machine() -> Machine {
    let mut machine = Machine::long();
    let mut core = machine.core();
    core.wrmsr(msr::STAR, u64::from(KERNEL_CODE) << 32 | u64::from(USER_CODE32) << 48).unwrap();
    core.wrmsr(msr::LSTAR, 0xffff_8000_0000_0000).unwrap();
    core.wrmsr(msr::FMASK, rflags::IF | rflags::TF).unwrap();
    machine
}

#[test]
fn syscall_saves_the_return_in_registers_and_masks_flags() {
    let mut machine = machine();
    machine.enter_user(USER_CODE);
    machine.state.rflags |= rflags::CF;
    let flags = machine.state.rflags;
    machine.core().syscall(0x1236).unwrap();
    assert_eq!((machine.state.gpr[gpr::RCX], machine.state.gpr[gpr::R11]), (0x1236, flags));
    assert_eq!(machine.state.rip, 0xffff_8000_0000_0000);
    assert_eq!(machine.state.rflags, rflags::CF | rflags::FIXED);
    assert_eq!((machine.selector(segment::CS), machine.selector(segment::SS)), (KERNEL_CODE, KERNEL_DATA));
    assert_eq!(machine.state.cpl(), 0);
    assert!(machine.state.in_64bit_mode());
    assert_eq!(machine.rsp(), STACK, "the stack pointer stays");
}

#[test]
fn sysret_returns_to_either_width() {
    for (bits, code, rip) in [(64, USER_CODE, 0x7fff_1234_5678), (32, USER_CODE32, 0x1234_5678)] {
        let mut machine = machine();
        machine.state.gpr[gpr::RCX] = 0x7fff_1234_5678;
        machine.state.gpr[gpr::R11] = rflags::IF | rflags::VM | rflags::RF;
        machine.core().sysret(bits).unwrap();
        assert_eq!((machine.selector(segment::CS), machine.selector(segment::SS)), (code, USER_DATA));
        assert_eq!((machine.state.rip, machine.state.cpl()), (rip, 3));
        assert_eq!(machine.state.rflags, rflags::IF | rflags::FIXED);
        assert_eq!(machine.state.code_bits(), bits);
    }
}

#[test]
fn sysret_to_a_non_canonical_address_faults_before_the_switch() {
    let mut machine = machine();
    machine.state.gpr[gpr::RCX] = 0x8000_0000_0000;
    assert_eq!(machine.core().sysret(64), Err(general_protection(0)));
    assert_eq!((machine.state.cpl(), machine.state.rip), (0, 0x1234));
}

#[test]
fn syscall_needs_sce_and_64bit_mode() {
    let mut machine = machine();
    machine.enter_user(USER_CODE32);
    assert_eq!(machine.core().syscall(0), Err(Exception::invalid_opcode().into()));
    machine.enter_user(USER_CODE);
    machine.state.efer &= !efer::SCE;
    assert_eq!(machine.core().syscall(0), Err(Exception::invalid_opcode().into()));
}

#[test]
fn sysenter_and_sysexit_from_compatibility_mode() {
    let mut machine = machine();
    machine.enter_user(USER_CODE32);
    assert_eq!(machine.core().sysenter(0), Err(general_protection(0)), "no selector");
    machine.state.msr.sysenter_cs = u64::from(KERNEL_CODE);
    machine.state.msr.sysenter_esp = STACK0;
    machine.state.msr.sysenter_eip = 0xffff_8000_0000_0000;
    machine.core().sysenter(0).unwrap();
    assert_eq!((machine.rsp(), machine.state.rip), (STACK0, 0xffff_8000_0000_0000));
    assert_eq!(machine.state.rflags & rflags::IF, 0);
    assert!(machine.state.in_64bit_mode() && machine.state.cpl() == 0);
    machine.state.gpr[gpr::RCX] = 0x1_0000_5000;
    machine.state.gpr[gpr::RDX] = 0x1_0000_4000;
    machine.core().sysexit(32).unwrap();
    assert_eq!((machine.rsp(), machine.state.rip, machine.state.cpl()), (0x5000, 0x4000, 3));
    assert_eq!(machine.selector(segment::CS), KERNEL_CODE + 16 | 3);
    assert_eq!(machine.core().sysexit(32), Err(general_protection(0)), "privileged");
}
