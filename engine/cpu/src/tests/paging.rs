//! Facts about translation (SDM vol. 3, chapter 4).

use super::*;
use gasang_x86::exception::page_fault::{FETCH, PRESENT, PROTECTION_KEY, RESERVED, USER, WRITE};
use gasang_x86::rflags;

const PAGE: u64 = 0x40_0000_0000;
const FRAME: u64 = 0x20_0000;

fn fault(linear: u64, code: u32) -> Trap {
    Exception::page_fault(linear, code).into()
}

fn mapped(flags: u64) -> Machine {
    let mut machine = Machine::long();
    machine.map(PAGE, FRAME, flags);
    machine
}

#[test]
fn four_level_paging_reaches_pages_of_every_size() {
    let mut machine = mapped(OPEN);
    machine.poke(FRAME + 5, 1, 0x77);
    assert_eq!(machine.read(PAGE + 5), Ok(0x77));

    let two_megabytes = machine.new_table();
    let pdpt = machine.peek(machine.state.cr3, 8) & !0xfff;
    machine.poke(pdpt + 8 * 8, 8, two_megabytes | OPEN);
    machine.poke(two_megabytes, 8, FRAME | OPEN | entry::PAGE_SIZE);
    assert_eq!(machine.read(0x2_0000_0005), Ok(0x77));

    machine.poke(pdpt + 9 * 8, 8, OPEN | entry::PAGE_SIZE);
    assert_eq!(machine.read(0x2_4000_0005 + FRAME), Ok(0x77));
}

#[test]
fn pae_paging_starts_at_the_loaded_pointers() {
    let mut machine = Machine::protected();
    let (pointers, directory, table) = (machine.new_table(), machine.new_table(), machine.new_table());
    machine.poke(pointers, 8, directory | 1);
    machine.poke(directory, 8, table | OPEN);
    machine.poke(directory + 8, 8, FRAME | OPEN | entry::PAGE_SIZE);
    machine.poke(table + 3 * 8, 8, FRAME | OPEN);
    machine.poke(FRAME + 9, 1, 0x66);
    let mut core = machine.core();
    core.write_cr(4, cr4::PAE).unwrap();
    core.write_cr(3, pointers).unwrap();
    core.write_cr(0, cr0::PE | cr0::PG | cr0::WP).unwrap();
    assert_eq!(machine.read(0x3009), Ok(0x66));
    assert_eq!(machine.read(0x20_0009), Ok(0x66));
    machine.poke(pointers, 8, 0);
    machine.tlb.flush_all();
    assert_eq!(machine.read(0x3009), Ok(0x66), "the processor keeps the pointers");
    assert_eq!(machine.read(0x4000_0000), Err(fault(0x4000_0000, 0)));
}

#[test]
fn pae_pointers_with_reserved_bits_are_refused() {
    let mut machine = Machine::protected();
    let pointers = machine.new_table();
    machine.poke(pointers + 24, 8, 3);
    let before = machine.state.cr0;
    let mut core = machine.core();
    core.write_cr(4, cr4::PAE).unwrap();
    core.write_cr(3, pointers).unwrap();
    assert_eq!(core.write_cr(0, cr0::PE | cr0::PG), Err(general_protection(0)));
    assert_eq!(machine.state.cr0, before);
}

#[test]
fn legacy_paging_has_small_and_large_pages() {
    let mut machine = Machine::protected();
    let (directory, table) = (machine.new_table(), machine.new_table());
    machine.poke(directory, 4, table | OPEN);
    machine.poke(directory + 4, 4, OPEN | entry::PAGE_SIZE);
    machine.poke(directory + 8, 4, OPEN | entry::PAGE_SIZE | 1 << 21);
    machine.poke(table + 3 * 4, 4, FRAME | OPEN);
    machine.poke(FRAME + 9, 1, 0x66);
    let mut core = machine.core();
    core.write_cr(3, directory).unwrap();
    core.write_cr(4, cr4::PSE).unwrap();
    core.write_cr(0, cr0::PE | cr0::PG).unwrap();
    assert_eq!(machine.read(0x3009), Ok(0x66));
    assert_eq!(machine.read(0x40_0009 + FRAME), Ok(0x66));
    assert_eq!(machine.read(0x80_0000), Err(fault(0x80_0000, PRESENT | RESERVED)));
    assert_eq!(machine.read(0x4000), Err(fault(0x4000, 0)));
}

#[test]
fn paging_off_ignores_smap_and_smep() {
    let mut machine = Machine::protected();
    machine.core().write_cr(4, cr4::SMAP | cr4::SMEP).unwrap();
    assert!(machine.read(0x5000).is_ok());
    assert!(machine.execute(0x5000).is_ok());
}

#[test]
fn faults_tell_what_was_tried() {
    let mut machine = mapped(0);
    assert_eq!(machine.read(PAGE), Err(fault(PAGE, 0)));
    assert_eq!(machine.write(PAGE + 8), Err(fault(PAGE + 8, WRITE)));
    machine.enter_user(USER_CODE);
    assert_eq!(machine.write(PAGE), Err(fault(PAGE, WRITE | USER)));
    assert_eq!(machine.execute(PAGE), Err(fault(PAGE, FETCH | USER)));
}

#[test]
fn supervisor_pages_refuse_the_user() {
    let mut machine = mapped(entry::PRESENT | entry::WRITABLE);
    assert!(machine.write(PAGE).is_ok());
    machine.enter_user(USER_CODE);
    assert_eq!(machine.read(PAGE), Err(fault(PAGE, PRESENT | USER)));
}

#[test]
fn write_protection_binds_the_supervisor_under_wp_only() {
    let mut machine = mapped(entry::PRESENT | entry::USER);
    assert_eq!(machine.write(PAGE), Err(fault(PAGE, PRESENT | WRITE)));
    let without = machine.state.cr0 & !cr0::WP;
    machine.core().write_cr(0, without).unwrap();
    assert!(machine.write(PAGE).is_ok());
    machine.enter_user(USER_CODE);
    assert_eq!(machine.write(PAGE), Err(fault(PAGE, PRESENT | WRITE | USER)));
}

#[test]
fn execute_disable_refuses_fetches() {
    let mut machine = mapped(OPEN | entry::EXECUTE_DISABLE);
    assert!(machine.read(PAGE).is_ok());
    assert_eq!(machine.execute(PAGE), Err(fault(PAGE, PRESENT | FETCH)));
}

#[test]
fn execute_disable_is_reserved_without_nxe() {
    let mut machine = mapped(OPEN | entry::EXECUTE_DISABLE);
    let efer = machine.state.efer & !efer::NXE;
    machine.core().wrmsr(gasang_x86::msr::EFER, efer).unwrap();
    assert_eq!(machine.read(PAGE), Err(fault(PAGE, PRESENT | RESERVED)));
}

#[test]
fn smep_refuses_supervisor_fetches_from_user_pages() {
    let mut machine = mapped(OPEN);
    assert!(machine.execute(PAGE).is_ok());
    let cr4 = machine.state.cr4 | cr4::SMEP;
    machine.core().write_cr(4, cr4).unwrap();
    assert_eq!(machine.execute(PAGE), Err(fault(PAGE, PRESENT | FETCH)));
}

#[test]
fn smap_yields_to_ac_but_not_for_implicit_accesses() {
    let mut machine = mapped(OPEN);
    let cr4 = machine.state.cr4 | cr4::SMAP;
    machine.core().write_cr(4, cr4).unwrap();
    assert_eq!(machine.read(PAGE), Err(fault(PAGE, PRESENT)));
    machine.state.rflags |= rflags::AC;
    assert!(machine.read(PAGE).is_ok());
    let implicit = machine.core().read(PAGE, 1, Privilege::Implicit);
    assert_eq!(implicit, Err(fault(PAGE, PRESENT)));
    machine.core().clac().unwrap();
    assert_eq!(machine.read(PAGE), Err(fault(PAGE, PRESENT)));
}

#[test]
fn protection_keys_bind_data_accesses_to_user_pages() {
    let key = 5;
    let mut machine = mapped(OPEN | key << entry::PROTECTION_KEY_SHIFT);
    let cr4 = machine.state.cr4 | cr4::PKE;
    machine.core().write_cr(4, cr4).unwrap();
    machine.core().wrpkru(2 << (2 * key), 0, 0).unwrap();
    assert!(machine.read(PAGE).is_ok());
    assert_eq!(machine.write(PAGE), Err(fault(PAGE, PRESENT | WRITE | PROTECTION_KEY)));
    machine.core().wrpkru(1 << (2 * key), 0, 0).unwrap();
    assert_eq!(machine.read(PAGE), Err(fault(PAGE, PRESENT | PROTECTION_KEY)));
    assert!(machine.execute(PAGE).is_ok());
    machine.core().wrpkru(0, 0, 0).unwrap();
    assert!(machine.write(PAGE).is_ok());
}

#[test]
fn reserved_bits_fault_as_such() {
    for bits in [1 << 46, 1 << 51] {
        let mut machine = mapped(OPEN | bits);
        assert_eq!(machine.read(PAGE), Err(fault(PAGE, PRESENT | RESERVED)), "{bits:#x}");
    }
    let mut machine = mapped(OPEN);
    let top = machine.state.cr3;
    let pml4e = machine.peek(top, 8);
    machine.poke(top, 8, pml4e | entry::PAGE_SIZE);
    assert_eq!(machine.read(PAGE), Err(fault(PAGE, PRESENT | RESERVED)));
}

#[test]
fn reads_set_accessed_and_only_writes_set_dirty() {
    let mut machine = mapped(OPEN);
    let leaf = machine.leaf(PAGE);
    let bits = |machine: &Machine| machine.peek(leaf, 8) & (entry::ACCESSED | entry::DIRTY);
    assert_eq!(bits(&machine), 0);
    machine.read(PAGE).unwrap();
    assert_eq!(bits(&machine), entry::ACCESSED);
    machine.write(PAGE).unwrap();
    assert_eq!(bits(&machine), entry::ACCESSED | entry::DIRTY);
}

#[test]
fn probing_marks_nothing() {
    let mut machine = mapped(OPEN);
    machine.core().probe(PAGE, Access::Write, Privilege::Supervisor).unwrap();
    let leaf = machine.leaf(PAGE);
    assert_eq!(machine.peek(leaf, 8) & (entry::ACCESSED | entry::DIRTY), 0);
}

#[test]
fn a_write_across_pages_that_faults_leaves_the_first_page_clean() {
    let mut machine = mapped(OPEN);
    let before = machine.peek(FRAME + 0xffe, 2);
    let result = machine.core().write(PAGE + 0xffe, 4, 0x1122_3344, Privilege::Supervisor);
    assert_eq!(result, Err(fault(PAGE + 0x1000, WRITE)));
    assert_eq!(machine.peek(FRAME + 0xffe, 2), before);
    let leaf = machine.leaf(PAGE);
    assert_eq!(machine.peek(leaf, 8) & entry::DIRTY, 0);
}

#[test]
fn a_fetch_stops_before_a_missing_page() {
    let mut machine = mapped(OPEN);
    machine.poke(FRAME + 0xffd, 3, 0x90_9090);
    let mut bytes = [0; 15];
    assert_eq!(machine.core().fetch(PAGE + 0xffd, &mut bytes), Ok(3));
    assert_eq!(machine.core().fetch_fault(PAGE + 0x1000), Err(fault(PAGE + 0x1000, FETCH)));
}
