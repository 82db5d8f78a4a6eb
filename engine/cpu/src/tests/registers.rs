//! Facts about control registers, MSRs and translations that survive (SDM vol. 3, 2.5, 4.10).

use super::*;
use gasang_x86::control::cr3::NOFLUSH;
use gasang_x86::msr;

const PAGE: u64 = 0x40_0000_0000;
const FRAME: u64 = 0x20_0000;
const OTHER: u64 = 0x20_1000;

/// A page whose translation is cached, and whose entry then changes behind the TLB's back.
fn stale(flags: u64) -> Machine {
    let mut machine = Machine::long();
    machine.poke(FRAME, 1, 1);
    machine.poke(OTHER, 1, 2);
    machine.map(PAGE, FRAME, OPEN | flags);
    assert_eq!(machine.read(PAGE), Ok(1));
    machine.map(PAGE, OTHER, OPEN | flags);
    assert_eq!(machine.read(PAGE), Ok(1));
    machine
}

fn stale_with_pcid(flags: u64) -> Machine {
    let mut machine = stale(flags);
    let cr4 = machine.state.cr4 | cr4::PCIDE;
    machine.core().write_cr(4, cr4).unwrap();
    machine.map(PAGE, FRAME, OPEN | flags);
    machine.tlb.flush_all();
    assert_eq!(machine.read(PAGE), Ok(1));
    machine.map(PAGE, OTHER, OPEN | flags);
    machine
}

#[test]
fn writing_cr3_forgets_all_but_global_translations() {
    let mut machine = stale(0);
    let cr3 = machine.state.cr3;
    machine.core().write_cr(3, cr3).unwrap();
    assert_eq!(machine.read(PAGE), Ok(2));
    let mut machine = stale(entry::GLOBAL);
    machine.core().write_cr(3, cr3).unwrap();
    assert_eq!(machine.read(PAGE), Ok(1));
}

#[test]
fn toggling_pge_forgets_global_translations() {
    let mut machine = stale(entry::GLOBAL);
    let cr4 = machine.state.cr4;
    machine.core().write_cr(4, cr4 & !cr4::PGE).unwrap();
    machine.core().write_cr(4, cr4).unwrap();
    assert_eq!(machine.read(PAGE), Ok(2));
}

#[test]
fn invlpg_forgets_even_a_global_translation() {
    let mut machine = stale(entry::GLOBAL);
    machine.core().invlpg(PAGE + 0x123).unwrap();
    assert_eq!(machine.read(PAGE), Ok(2));
}

#[test]
fn pcid_noflush_keeps_translations() {
    let mut machine = stale_with_pcid(0);
    let cr3 = machine.state.cr3;
    machine.core().write_cr(3, cr3 | 7).unwrap();
    assert_eq!(machine.read(PAGE), Ok(2), "another PCID");
    machine.core().write_cr(3, cr3 | NOFLUSH).unwrap();
    assert_eq!(machine.state.cr3, cr3, "the bit is not kept");
    assert_eq!(machine.read(PAGE), Ok(1));
    machine.core().write_cr(3, cr3).unwrap();
    assert_eq!(machine.read(PAGE), Ok(2));
}

#[test]
fn pcids_need_long_mode_and_a_zero_pcid() {
    let mut machine = Machine::long();
    machine.state.cr3 |= 1 << 3;
    let cr4 = machine.state.cr4 | cr4::PCIDE;
    assert_eq!(machine.core().write_cr(4, cr4), Err(general_protection(0)));
    assert_eq!(Machine::protected().core().write_cr(4, cr4::PCIDE), Err(general_protection(0)));
}

#[test]
fn invpcid_of_each_type_forgets_what_it_names() {
    let after = |flags: u64, kind: u64, descriptor: [u64; 2]| {
        let mut machine = stale_with_pcid(flags);
        machine.core().invpcid(kind, descriptor).unwrap();
        machine.read(PAGE).unwrap()
    };
    assert_eq!(after(0, 0, [0, PAGE]), 2);
    assert_eq!(after(0, 0, [0, PAGE + 0x1000]), 1);
    assert_eq!(after(0, 1, [0, 0]), 2);
    assert_eq!(after(0, 1, [5, 0]), 1);
    assert_eq!(after(entry::GLOBAL, 1, [0, 0]), 1);
    assert_eq!(after(entry::GLOBAL, 2, [0, 0]), 2);
    assert_eq!(after(0, 3, [0, 0]), 2);
    assert_eq!(after(entry::GLOBAL, 3, [0, 0]), 1);
}

#[test]
fn invpcid_refuses_bad_operands() {
    let mut machine = Machine::long();
    let mut refused = |kind, descriptor| {
        assert_eq!(machine.core().invpcid(kind, descriptor), Err(general_protection(0)));
    };
    refused(4, [0, 0]);
    refused(2, [0x1000, 0]);
    refused(0, [0, 0x8000_0000_0000]);
    refused(1, [1, 0]);
}

#[test]
fn inconsistent_cr0_is_refused() {
    let mut machine = Machine::protected();
    for value in [cr0::PG, cr0::PE | cr0::NW, cr0::PE | 1 << 32] {
        assert_eq!(machine.core().write_cr(0, value), Err(general_protection(0)), "{value:#x}");
    }
}

#[test]
fn long_mode_begins_when_paging_does() {
    let mut machine = Machine::protected();
    let root = machine.new_table();
    let mut core = machine.core();
    core.wrmsr(msr::EFER, efer::LME).unwrap();
    core.write_cr(3, root).unwrap();
    let on = cr0::PE | cr0::PG;
    assert_eq!(core.write_cr(0, on), Err(general_protection(0)), "it needs PAE");
    core.write_cr(4, cr4::PAE).unwrap();
    core.write_cr(0, on).unwrap();
    assert_eq!(core.state.efer, efer::LME | efer::LMA);
    assert!(!core.state.in_64bit_mode());
    assert_eq!(core.write_cr(4, 0), Err(general_protection(0)));
    assert_eq!(core.wrmsr(msr::EFER, 0), Err(general_protection(0)), "LME is fixed while paging is on");
    core.write_cr(0, cr0::PE).unwrap();
    assert_eq!(core.state.efer, efer::LME);
}

#[test]
fn paging_cannot_stop_in_64bit_mode() {
    let mut machine = Machine::long();
    assert_eq!(machine.core().write_cr(0, cr0::PE), Err(general_protection(0)));
}

#[test]
fn cr4_has_the_bits_of_the_model_only() {
    let mut machine = Machine::long();
    machine.model = CpuModel::parse("max,-smap,-vmx").unwrap();
    let cr4 = machine.state.cr4;
    assert_eq!(machine.core().write_cr(4, cr4 | cr4::SMAP), Err(general_protection(0)));
    assert_eq!(machine.core().write_cr(4, cr4 | cr4::VMXE), Err(general_protection(0)));
    machine.core().write_cr(4, cr4 | cr4::SMEP).unwrap();
}

#[test]
fn cr3_refuses_bits_beyond_the_physical_address() {
    let mut machine = Machine::long();
    assert_eq!(machine.core().write_cr(3, 1 << 46), Err(general_protection(0)));
    assert_eq!(machine.core().write_cr(3, NOFLUSH), Err(general_protection(0)));
}

#[test]
fn control_registers_are_privileged_and_few() {
    let mut machine = Machine::long();
    assert_eq!(machine.core().read_cr(1), Err(Exception::invalid_opcode().into()));
    machine.core().write_cr(8, 9).unwrap();
    assert_eq!(machine.core().read_cr(8), Ok(9));
    assert_eq!(machine.core().write_cr(8, 16), Err(general_protection(0)));
    machine.enter_user(USER_CODE);
    assert_eq!(machine.core().read_cr(0), Err(general_protection(0)));
    assert_eq!(machine.core().write_cr(2, 1), Err(general_protection(0)));
    assert_eq!(machine.core().clts(), Err(general_protection(0)));
    assert_eq!(machine.core().hlt(), Err(general_protection(0)));
    assert_eq!(machine.core().rdmsr(msr::EFER), Err(general_protection(0)));
}

#[test]
fn lmsw_sets_pe_and_never_clears_it() {
    let mut machine = Machine::real();
    machine.core().lmsw(1).unwrap();
    assert!(machine.state.protected_mode());
    machine.core().lmsw((cr0::TS | cr0::MP) as u16).unwrap();
    assert_eq!(machine.state.cr0 & 0xf, cr0::PE | cr0::MP | cr0::TS);
}

#[test]
fn umip_hides_system_registers_from_the_user() {
    let mut machine = Machine::long();
    machine.state.cr4 |= cr4::UMIP;
    assert!(machine.core().sgdt().is_ok());
    machine.enter_user(USER_CODE);
    assert_eq!(machine.core().sgdt(), Err(general_protection(0)));
    assert_eq!(machine.core().sldt(), Err(general_protection(0)));
    assert_eq!(machine.core().smsw(), Err(general_protection(0)));
    machine.state.cr4 &= !cr4::UMIP;
    assert_eq!(machine.core().str(), Ok(TSS_SELECTOR));
}

#[test]
fn unknown_msrs_and_bad_values_are_refused() {
    let mut machine = Machine::long();
    let mut core = machine.core();
    assert_eq!(core.rdmsr(0x1234_5678), Err(general_protection(0)));
    for (index, value) in [
        (0x1234_5678, 0),
        (msr::LSTAR, 0x8000_0000_0000),
        (msr::KERNEL_GS_BASE, 1 << 63),
        (msr::FS_BASE, 1 << 47),
        (msr::PAT, 2),
        (msr::TSC_AUX, 1 << 32),
        (msr::EFER, 1 << 12),
        (msr::MTRR_DEF_TYPE, 2),
        (msr::MTRR_PHYSBASE0 + 1, 1),
        (msr::MTRRCAP, 0),
        (msr::ARCH_CAPABILITIES, 0),
        (msr::XSS, 1),
    ] {
        assert_eq!(core.wrmsr(index, value), Err(general_protection(0)), "{index:#x}");
    }
}

#[test]
fn msrs_keep_what_they_are_given() {
    let mut machine = Machine::long();
    let mut core = machine.core();
    for (index, value) in [
        (msr::LSTAR, 0xffff_8000_0000_1234),
        (msr::STAR, 0x0023_0010_0000_0000),
        (msr::FMASK, 0x4_7700),
        (msr::PAT, 0x0007_0106_0007_0406),
        (msr::FS_BASE, 0x7fff_1234),
        (msr::TSC_AUX, 3),
        (msr::MTRR_DEF_TYPE, 0xc06),
        (msr::MTRR_FIX16K_A0000, 0x0606_0606_0000_0101),
        (msr::MTRR_FIX4K_F8000, 0x0505_0505_0505_0505),
        (msr::MTRR_PHYSBASE0 + 15, 0x3fff_8000_0800),
    ] {
        core.wrmsr(index, value).unwrap();
        assert_eq!(core.rdmsr(index), Ok(value), "{index:#x}");
    }
    assert_eq!(core.state.segment[segment::FS].base, 0x7fff_1234);
    assert_eq!(core.rdmsr(msr::APIC_BASE), Ok(0xfee0_0900), "the platform's");
}

#[test]
fn writing_the_tsc_moves_tsc_adjust_and_back() {
    let mut machine = Machine::long();
    machine.platform.tsc = 1000;
    let mut core = machine.core();
    core.wrmsr(msr::TSC, 5000).unwrap();
    assert_eq!(core.rdtsc(), Ok(5000));
    assert_eq!(core.rdmsr(msr::TSC_ADJUST), Ok(4000));
    core.wrmsr(msr::TSC, 6000).unwrap();
    assert_eq!(core.rdmsr(msr::TSC_ADJUST), Ok(5000));
    core.wrmsr(msr::TSC_ADJUST, 0).unwrap();
    assert_eq!(core.rdmsr(msr::TSC), Ok(1000));
    core.wrmsr(msr::TSC, 0).unwrap();
    assert_eq!(core.rdtsc(), Ok(0));
}

#[test]
fn tsd_hides_the_tsc_from_the_user() {
    let mut machine = Machine::long();
    machine.state.cr4 |= cr4::TSD;
    assert!(machine.core().rdtsc().is_ok());
    machine.enter_user(USER_CODE);
    assert_eq!(machine.core().rdtscp(), Err(general_protection(0)));
}

#[test]
fn init_keeps_msrs_and_sipi_starts_at_its_page() {
    let mut machine = Machine::long();
    machine.core().wrmsr(msr::LSTAR, 0x1000).unwrap();
    machine.state.init();
    assert_eq!(machine.state.efer, 0);
    assert_eq!(machine.state.msr.lstar, 0x1000);
    assert!(!machine.state.protected_mode());
    machine.state.activity = Activity::WaitForSipi;
    machine.state.sipi(0x9a);
    let code = machine.state.segment[segment::CS];
    assert_eq!((code.base, code.selector, machine.state.rip), (0x9a000, 0x9a00, 0));
    assert_eq!(machine.state.activity, Activity::Active);
}
