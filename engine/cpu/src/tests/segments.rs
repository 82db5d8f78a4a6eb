//! Facts about segment registers (SDM vol. 3, chapters 3 and 5).

use super::*;
use gasang_x86::msr;

fn not_present(code: u16) -> Trap {
    Exception::not_present(u32::from(code)).into()
}

fn linear(
    machine: &mut Machine,
    register: usize,
    offset: u64,
    size: u64,
    access: Access,
) -> Result<u64, Trap> {
    machine.core().logical_to_linear(register, offset, size, access)
}

#[test]
fn only_fs_and_gs_have_bases_in_64bit_mode() {
    let mut machine = Machine::long();
    for register in &mut machine.state.segment {
        register.base = 0x1000;
    }
    assert_eq!(linear(&mut machine, segment::DS, 5, 1, Access::Read), Ok(5));
    assert_eq!(linear(&mut machine, segment::GS, 5, 1, Access::Write), Ok(0x1005));
    assert_eq!(linear(&mut machine, segment::FS, 0u64.wrapping_sub(0x1000), 1, Access::Read), Ok(0));
}

#[test]
fn non_canonical_addresses_fault_by_segment() {
    let mut machine = Machine::long();
    let edge = 0x8000_0000_0000;
    assert_eq!(linear(&mut machine, segment::DS, edge - 4, 4, Access::Read), Ok(edge - 4));
    assert_eq!(linear(&mut machine, segment::DS, edge - 4, 8, Access::Read), Err(general_protection(0)));
    assert_eq!(linear(&mut machine, segment::SS, edge, 8, Access::Read), Err(Exception::stack(0).into()));
}

#[test]
fn limits_are_inclusive() {
    let mut machine = Machine::protected();
    machine.set_descriptor(FREE, descriptor(0x5000, 0xff, DATA | access::S | access::PRESENT));
    machine.core().load_segment(segment::ES, FREE).unwrap();
    assert_eq!(linear(&mut machine, segment::ES, 0xfc, 4, Access::Write), Ok(0x50fc));
    assert_eq!(linear(&mut machine, segment::ES, 0xfd, 4, Access::Read), Err(general_protection(0)));
    assert_eq!(linear(&mut machine, segment::ES, 0xffff_ffff, 4, Access::Read), Err(general_protection(0)));
}

#[test]
fn expand_down_segments_begin_above_their_limit() {
    let mut machine = Machine::protected();
    for (size, top) in [(access::DB, 0xffff_ffff), (0, 0xffff)] {
        let rights = access::WRITABLE | access::EXPAND_DOWN | access::S | access::PRESENT | size;
        machine.set_descriptor(FREE, descriptor(0, 0xfff, rights));
        machine.core().load_segment(segment::ES, FREE).unwrap();
        assert_eq!(linear(&mut machine, segment::ES, 0xfff, 1, Access::Read), Err(general_protection(0)));
        assert_eq!(linear(&mut machine, segment::ES, 0x1000, 4, Access::Read), Ok(0x1000));
        assert_eq!(linear(&mut machine, segment::ES, top, 1, Access::Read), Ok(top));
        assert_eq!(linear(&mut machine, segment::ES, top, 2, Access::Read), Err(general_protection(0)));
    }
}

#[test]
fn the_type_of_a_segment_limits_its_use() {
    let mut machine = Machine::protected();
    assert!(linear(&mut machine, segment::CS, 0, 1, Access::Read).is_ok());
    assert_eq!(linear(&mut machine, segment::CS, 0, 1, Access::Write), Err(general_protection(0)));
    machine.set_descriptor(FREE, flat(access::DB, 0));
    machine.core().load_segment(segment::ES, FREE).unwrap();
    assert_eq!(linear(&mut machine, segment::ES, 0, 1, Access::Write), Err(general_protection(0)));
    machine.core().load_segment(segment::ES, 0).unwrap();
    assert_eq!(linear(&mut machine, segment::ES, 0, 1, Access::Read), Err(general_protection(0)));
}

#[test]
fn real_mode_keeps_the_limit_that_protected_mode_left() {
    let mut machine = Machine::protected();
    machine.core().write_cr(0, cr0::ET).unwrap();
    machine.core().load_segment(segment::ES, 0x1234).unwrap();
    assert_eq!(linear(&mut machine, segment::ES, 0x10_0000, 4, Access::Write), Ok(0x11_2340));
    let mut machine = Machine::real();
    machine.core().load_segment(segment::ES, 0x1234).unwrap();
    assert_eq!(linear(&mut machine, segment::ES, 0xffff, 1, Access::Write), Ok(0x2233f));
    assert_eq!(linear(&mut machine, segment::ES, 0xffff, 2, Access::Write), Err(general_protection(0)));
}

#[test]
fn ss_must_match_the_privilege() {
    let mut machine = Machine::long();
    let mut load = |selector: u16| machine.core().load_segment(segment::SS, selector);
    assert_eq!(load(USER_DATA), Err(general_protection(u32::from(USER_DATA & !3))));
    assert_eq!(load(KERNEL_DATA | 1), Err(general_protection(u32::from(KERNEL_DATA))));
    assert_eq!(load(KERNEL_CODE), Err(general_protection(u32::from(KERNEL_CODE))));
    assert_eq!(load(0), Ok(()), "null at CPL 0 in 64-bit mode");
    assert_eq!(load(1), Err(general_protection(0)));
    assert_eq!(Machine::protected().core().load_segment(segment::SS, 0), Err(general_protection(0)));
}

#[test]
fn data_segments_must_be_within_reach() {
    let mut machine = Machine::long();
    machine.enter_user(USER_CODE);
    let mut load = |selector: u16| machine.core().load_segment(segment::DS, selector);
    assert_eq!(load(KERNEL_DATA), Err(general_protection(u32::from(KERNEL_DATA))));
    assert_eq!(load(0x100), Err(general_protection(0x100)), "beyond the limit");
    assert_eq!(load(4), Err(general_protection(4)), "no LDT");
    assert_eq!(load(TSS_SELECTOR), Err(general_protection(u32::from(TSS_SELECTOR))));
    assert_eq!(load(3), Ok(()));
    assert_eq!(load(USER_DATA), Ok(()));
}

#[test]
fn absent_segments_fault_by_register() {
    let mut machine = Machine::long();
    machine.set_descriptor(FREE, flat(DATA, 0) & !(1 << 47));
    assert_eq!(machine.core().load_segment(segment::DS, FREE), Err(not_present(FREE)));
    let stack = Exception::stack(u32::from(FREE)).into();
    assert_eq!(machine.core().load_segment(segment::SS, FREE), Err(stack));
}

#[test]
fn loading_marks_the_descriptor_accessed_wherever_it_lies() {
    let mut machine = Machine::long();
    let table = GDT + 0x401;
    machine.poke(table + 0x50, 8, flat(DATA, 0));
    machine.state.gdtr.base = table;
    machine.core().load_segment(segment::FS, 0x50).unwrap();
    assert_eq!(machine.peek(table + 0x50, 8), flat(DATA | access::ACCESSED, 0));
}

#[test]
fn ltr_marks_the_task_busy_once() {
    let mut machine = Machine::long();
    let refused = general_protection(u32::from(TSS_SELECTOR));
    assert_eq!(machine.core().ltr(TSS_SELECTOR), Err(refused), "the machine's start loaded it");
    let kind = machine.peek(GDT + u64::from(TSS_SELECTOR) + 5, 1) & 0xf;
    assert_eq!(kind, u64::from(system::TSS_BUSY));
    assert_eq!(machine.core().ltr(0), Err(general_protection(0)));
}

#[test]
fn ldt_descriptors_have_16_bytes_in_ia32e_mode() {
    let mut machine = Machine::long();
    machine.set_descriptor(FREE, descriptor(0x1000, 0xfff, system::LDT | access::PRESENT));
    machine.set_descriptor(FREE + 8, 0xffff_8000);
    machine.core().lldt(FREE).unwrap();
    assert_eq!(machine.state.ldtr.base, 0xffff_8000_0000_1000);
    machine.set_descriptor(FREE + 8, 0x8000);
    assert_eq!(machine.core().lldt(FREE), Err(general_protection(u32::from(FREE))), "not canonical");
    machine.core().lldt(0).unwrap();
    assert_eq!(machine.core().sldt(), Ok(0));
}

#[test]
fn lar_and_lsl_see_what_privilege_lets_them() {
    let mut machine = Machine::long();
    assert_eq!(machine.core().lar(USER_CODE), Ok(Some(0x00af_fa00)));
    assert_eq!(machine.core().lsl(USER_DATA), Ok(Some(0xffff_ffff)));
    assert_eq!(machine.core().lsl(TSS_SELECTOR), Ok(Some(0xfff)));
    assert_eq!(machine.core().lar(0), Ok(None));
    machine.set_descriptor(FREE, gate(KERNEL_CODE, 0, system::INTERRUPT_GATE, 3, 0));
    assert_eq!(machine.core().lar(FREE), Ok(None));
    machine.enter_user(USER_CODE);
    assert_eq!(machine.core().lsl(KERNEL_DATA), Ok(None));
    machine.state.cr0 &= !cr0::PE;
    assert_eq!(machine.core().lar(KERNEL_DATA), Err(Exception::invalid_opcode().into()));
}

#[test]
fn verr_and_verw_tell_readable_from_writable() {
    let mut machine = Machine::long();
    assert_eq!(machine.core().verr(KERNEL_CODE), Ok(true));
    assert_eq!(machine.core().verw(KERNEL_CODE), Ok(false));
    assert_eq!(machine.core().verw(KERNEL_DATA), Ok(true));
    assert_eq!(machine.core().verr(TSS_SELECTOR), Ok(false));
    machine.enter_user(USER_CODE);
    assert_eq!(machine.core().verw(KERNEL_DATA), Ok(false));
}

#[test]
fn arpl_raises_the_requested_privilege() {
    let mut machine = Machine::protected();
    assert_eq!(machine.core().arpl(0x50, 3), Ok(Some(0x53)));
    assert_eq!(machine.core().arpl(0x53, 3), Ok(None));
    assert_eq!(Machine::real().core().arpl(0x50, 3), Err(Exception::invalid_opcode().into()));
}

#[test]
fn swapgs_exchanges_bases_for_the_kernel_only() {
    let mut machine = Machine::long();
    machine.core().wrmsr(msr::KERNEL_GS_BASE, 0x1111).unwrap();
    machine.state.segment[segment::GS].base = 0x2222;
    machine.core().swapgs().unwrap();
    assert_eq!(machine.state.segment[segment::GS].base, 0x1111);
    assert_eq!(machine.state.msr.kernel_gs_base, 0x2222);
    machine.enter_user(USER_CODE);
    assert_eq!(machine.core().swapgs(), Err(general_protection(0)));
}

#[test]
fn base_instructions_need_fsgsbase() {
    let mut machine = Machine::long();
    assert_eq!(machine.core().rdfsbase(), Err(Exception::invalid_opcode().into()));
    machine.state.cr4 |= cr4::FSGSBASE;
    machine.core().wrgsbase(0x1234).unwrap();
    assert_eq!(machine.core().rdgsbase(), Ok(0x1234));
    assert_eq!(machine.core().wrfsbase(1 << 47), Err(general_protection(0)));
}
