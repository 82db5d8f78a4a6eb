//! Facts about system flags and I/O permission.

use super::*;
use gasang_x86::rflags;

#[test]
fn popf_at_cpl_3_changes_neither_iopl_nor_if() {
    let mut machine = Machine::long();
    machine.enter_user(USER_CODE);
    machine.core().popf(rflags::IOPL | rflags::CF | rflags::AC | rflags::VIP, 64).unwrap();
    assert_eq!(machine.state.rflags, rflags::IF | rflags::CF | rflags::AC | rflags::FIXED);
}

#[test]
fn popf_at_cpl_0_changes_all_but_vm_and_virtual_flags() {
    let mut machine = Machine::long();
    machine.core().popf(!0, 64).unwrap();
    let virtual_flags = rflags::VM | rflags::VIF | rflags::VIP | rflags::RF;
    assert_eq!(machine.state.rflags, rflags::WRITABLE & !virtual_flags | rflags::FIXED);
    machine.core().popf(0, 16).unwrap();
    assert_eq!(machine.state.rflags, rflags::AC | rflags::ID | rflags::FIXED);
}

#[test]
fn if_belongs_to_those_within_iopl() {
    let mut machine = Machine::long();
    machine.enter_user(USER_CODE);
    assert_eq!(machine.core().cli(), Err(general_protection(0)));
    machine.state.rflags |= rflags::IOPL;
    machine.core().cli().unwrap();
    assert_eq!(machine.state.rflags & rflags::IF, 0);
}

#[test]
fn sti_holds_interrupts_back_only_if_it_enabled_them() {
    let mut machine = Machine::long();
    machine.core().sti().unwrap();
    assert_eq!(machine.state.shadow, Shadow::Sti);
    machine.state.shadow = Shadow::None;
    machine.core().sti().unwrap();
    assert_eq!(machine.state.shadow, Shadow::None);
}

#[test]
fn protected_mode_virtual_interrupts_use_vif() {
    let mut machine = Machine::protected();
    machine.enter_user(USER_CODE32);
    machine.state.cr4 |= cr4::PVI;
    machine.core().sti().unwrap();
    assert_ne!(machine.state.rflags & rflags::VIF, 0);
    machine.core().cli().unwrap();
    assert_eq!(machine.state.rflags & (rflags::VIF | rflags::IF), rflags::IF);
    machine.state.rflags |= rflags::VIP;
    assert_eq!(machine.core().sti(), Err(general_protection(0)));
}

#[test]
fn virtual_8086_flags_need_iopl_3_or_vme() {
    let mut machine = Machine::protected();
    machine.enter_virtual_8086(0);
    for result in [machine.core().popf(0, 16), machine.core().cli()] {
        assert_eq!(result, Err(general_protection(0)));
    }
    assert_eq!(machine.core().pushf_value(16), Err(general_protection(0)));
    machine.state.cr4 |= cr4::VME;
    machine.core().popf(rflags::IF, 16).unwrap();
    assert_eq!(machine.state.rflags & (rflags::IF | rflags::VIF), rflags::VIF);
    assert_eq!(machine.core().pushf_value(16).unwrap() & 0xffff, rflags::IF | rflags::IOPL | 2);
    assert_eq!(machine.core().pushf_value(32), Err(general_protection(0)));
    machine.enter_virtual_8086(3);
    machine.core().popf(rflags::IF, 16).unwrap();
    assert_eq!(machine.state.rflags & (rflags::IF | rflags::VIF | rflags::IOPL), rflags::IF | rflags::IOPL);
}

#[test]
fn stac_is_the_kernels() {
    let mut machine = Machine::long();
    machine.core().stac().unwrap();
    assert_ne!(machine.state.rflags & rflags::AC, 0);
    machine.enter_user(USER_CODE);
    assert_eq!(machine.core().clac(), Err(Exception::invalid_opcode().into()));
}

#[test]
fn the_io_bitmap_allows_ports_one_by_one() {
    let mut machine = Machine::long();
    machine.poke(TSS + 102, 2, 104);
    machine.poke_all(TSS + 104, 8, &[!0, !0 ^ (3 << 6)]);
    machine.poke_all(TSS + 104 + 16, 8, &[!0; 8]);
    assert!(machine.core().check_io(0x10, 4).is_ok(), "the kernel needs no permission");
    machine.enter_user(USER_CODE);
    assert_eq!(machine.core().check_io(0x45, 1), Err(general_protection(0)));
    assert!(machine.core().check_io(0x46, 1).is_ok());
    assert!(machine.core().check_io(0x46, 2).is_ok());
    assert_eq!(machine.core().check_io(0x47, 2), Err(general_protection(0)));
    machine.state.rflags |= rflags::IOPL;
    assert!(machine.core().check_io(0x45, 1).is_ok());
}

#[test]
fn an_io_bitmap_beyond_the_tss_allows_nothing() {
    let mut machine = Machine::long();
    machine.poke(TSS + 102, 2, 104);
    machine.state.tr.limit = 104 + 8;
    machine.enter_user(USER_CODE);
    assert!(machine.core().check_io(0x3f, 1).is_ok(), "the byte after is within the limit");
    assert_eq!(machine.core().check_io(0x40, 1), Err(general_protection(0)));
}
