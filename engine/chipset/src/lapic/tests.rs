//! Facts about one local APIC; IPIs and wiring are tested with the whole chipset.

use super::*;

const EOI: u64 = 0xb0;
const SPURIOUS: u64 = 0xf0;
const ESR: u64 = 0x280;
const LVT_TIMER: u64 = 0x320;
const LVT_LINT0: u64 = 0x350;
const LVT_ERROR: u64 = 0x370;

const XAPIC: u64 = 0xfee0_0800;
const X2APIC: u64 = 0xfee0_0c00;

fn enabled() -> LocalApic {
    let mut lapic = LocalApic::new(0, true);
    lapic.write_page(0, SPURIOUS, 4, 0x1ff);
    lapic
}

fn x2apic(id: u32) -> LocalApic {
    let mut lapic = LocalApic::new(id, false);
    lapic.set_base(X2APIC).unwrap();
    lapic.write_msr(0, 0x0f, 0x1ff).unwrap();
    lapic
}

fn message(destination: u32, logical: bool) -> InterruptMessage {
    InterruptMessage { destination, logical, delivery: Delivery::Fixed, vector: 0x40, level: false }
}

#[test]
fn reset_values_are_those_of_the_manual() {
    let mut lapic = LocalApic::new(3, false);
    assert_eq!(lapic.read_page(0, 0x20, 4), 3 << 24);
    assert_eq!(lapic.read_page(0, 0x30, 4), 0x0005_0014);
    assert_eq!(lapic.read_page(0, SPURIOUS, 4), 0xff);
    assert_eq!(lapic.read_page(0, 0xe0, 4), 0xffff_ffff);
    assert_eq!(lapic.read_page(0, LVT_TIMER, 4), 0x1_0000);
    assert_eq!(lapic.base(), XAPIC);
    assert_eq!(LocalApic::new(0, true).base(), XAPIC | 0x100);
}

#[test]
fn software_disabled_apic_refuses_fixed_but_takes_nmi() {
    let mut lapic = LocalApic::new(0, true);
    assert!(!lapic.accept(Delivery::Fixed, 0x40, false));
    assert!(lapic.accept(Delivery::NonMaskable, 0, false));
    assert!(lapic.take_nmi());
}

#[test]
fn software_disable_masks_every_lvt_entry() {
    let mut lapic = enabled();
    lapic.write_page(0, LVT_TIMER, 4, 0x40);
    lapic.write_page(0, SPURIOUS, 4, 0xff);
    assert_eq!(lapic.read_page(0, LVT_TIMER, 4), 0x1_0040);
    lapic.write_page(0, LVT_TIMER, 4, 0x41);
    assert_eq!(lapic.read_page(0, LVT_TIMER, 4), 0x1_0041);
}

#[test]
fn higher_class_interrupts_handler_and_same_class_waits() {
    let mut lapic = enabled();
    lapic.accept(Delivery::Fixed, 0x45, false);
    assert_eq!(lapic.acknowledge(), Some(0x45));
    lapic.accept(Delivery::Fixed, 0x4f, false);
    assert!(!lapic.interrupt_requested());
    lapic.accept(Delivery::Fixed, 0x51, false);
    assert_eq!(lapic.acknowledge(), Some(0x51));
    assert_eq!(lapic.read_page(0, 0xa0, 4), 0x50);
    lapic.write_page(0, EOI, 4, 0);
    lapic.write_page(0, EOI, 4, 0);
    assert_eq!(lapic.acknowledge(), Some(0x4f));
}

#[test]
fn task_priority_holds_back_its_class_and_below() {
    let mut lapic = enabled();
    lapic.set_cr8(4);
    assert_eq!(lapic.read_page(0, 0x80, 4), 0x40);
    lapic.accept(Delivery::Fixed, 0x4f, false);
    assert!(!lapic.interrupt_requested());
    lapic.write_page(0, 0x80, 4, 0x3f);
    assert_eq!(lapic.cr8(), 3);
    assert!(lapic.interrupt_requested());
}

#[test]
fn eoi_of_a_level_interrupt_is_broadcast() {
    let mut lapic = enabled();
    lapic.accept(Delivery::Fixed, 0x41, true);
    assert_eq!(lapic.read_page(0, 0x1a0, 4), 2);
    lapic.acknowledge();
    assert_eq!(lapic.write_page(0, EOI, 4, 0), Effect::EndOfInterrupt(0x41));
    lapic.accept(Delivery::Fixed, 0x41, false);
    lapic.acknowledge();
    assert_eq!(lapic.write_page(0, EOI, 4, 0), Effect::None);
}

#[test]
fn request_and_service_registers_show_the_vector() {
    let mut lapic = enabled();
    lapic.accept(Delivery::Fixed, 0xe1, false);
    assert_eq!(lapic.read_page(0, 0x270, 4), 2);
    lapic.acknowledge();
    assert_eq!((lapic.read_page(0, 0x270, 4), lapic.read_page(0, 0x170, 4)), (0, 2));
}

#[test]
fn apic_base_allows_only_the_transitions_of_the_manual() {
    let mut lapic = LocalApic::new(1, false);
    assert_eq!(lapic.set_base(0xfee0_0400), Err(GeneralProtection));
    assert_eq!(lapic.set_base(XAPIC | 1), Err(GeneralProtection));
    assert_eq!(lapic.set_base(X2APIC), Ok(()));
    assert_eq!(lapic.page(), None);
    assert_eq!(lapic.set_base(XAPIC), Err(GeneralProtection));
    assert_eq!(lapic.set_base(0xfee0_0000), Ok(()));
    assert_eq!(lapic.set_base(X2APIC), Err(GeneralProtection));
    assert_eq!(lapic.set_base(XAPIC), Ok(()));
    assert_eq!(lapic.page(), Some(0xfee0_0000));
}

#[test]
fn apic_base_moves_the_page() {
    let mut lapic = LocalApic::new(0, true);
    lapic.set_base(0x1_2345_6000 | BASE_ENABLE).unwrap();
    assert_eq!(lapic.page(), Some(0x1_2345_6000));
    assert_eq!(lapic.base(), 0x1_2345_6900);
}

#[test]
fn x2apic_registers_fault_as_documented() {
    let mut lapic = x2apic(0x25);
    assert_eq!(lapic.read_msr(0, 0x02), Ok(0x25));
    assert_eq!(lapic.read_msr(0, 0x0d), Ok(2 << 16 | 1 << 5));
    for unreadable in [0x00, 0x09, 0x0b, 0x0c, 0x0e, 0x2f, 0x31, 0x3f, 0x40, 0xff] {
        assert_eq!(lapic.read_msr(0, unreadable), Err(GeneralProtection), "{unreadable:#x}");
    }
    for (register, value) in [(0x02, 0), (0x0b, 1), (0x0d, 0), (0x28, 1), (0x08, 0x100), (0x38, 1 << 32)] {
        assert_eq!(lapic.write_msr(0, register, value), Err(GeneralProtection), "{register:#x}");
    }
    assert_eq!(lapic.write_msr(0, 0x0b, 0), Ok(Effect::None));
    assert_eq!(LocalApic::new(0, true).read_msr(0, 0x02), Err(GeneralProtection));
}

#[test]
fn logical_destination_flat_and_cluster() {
    let mut lapic = enabled();
    lapic.write_page(0, 0xd0, 4, 0x0400_0000);
    assert!(lapic.matches(&message(0x05, true)) && !lapic.matches(&message(0x03, true)));
    lapic.write_page(0, 0xe0, 4, 0x0fff_ffff);
    lapic.write_page(0, 0xd0, 4, 0x2400_0000);
    assert!(lapic.matches(&message(0x2c, true)) && !lapic.matches(&message(0x1c, true)));
    assert!(lapic.matches(&message(0xf4, true)) && !lapic.matches(&message(0xf3, true)));
}

#[test]
fn logical_destination_x2apic_is_cluster_and_bit() {
    let lapic = x2apic(0x13);
    assert!(lapic.matches(&message(0x0001_0008, true)));
    assert!(!lapic.matches(&message(0x0001_0004, true)));
    assert!(!lapic.matches(&message(0x0000_0008, true)));
    assert!(lapic.matches(&message(BROADCAST, true)) && lapic.matches(&message(BROADCAST, false)));
}

#[test]
fn illegal_vectors_are_reported_in_esr_and_by_the_error_interrupt() {
    let mut lapic = enabled();
    lapic.write_page(0, LVT_ERROR, 4, 0xfe);
    assert_eq!(lapic.write_page(0, 0x300, 4, 0x0004_0003), Effect::None);
    assert_eq!(lapic.read_page(0, ESR, 4), 0);
    lapic.write_page(0, ESR, 4, 0);
    assert_eq!(lapic.read_page(0, ESR, 4), 0x20);
    assert_eq!(lapic.acknowledge(), Some(0xfe));
    lapic.write_page(0, ESR, 4, 0);
    assert_eq!(lapic.read_page(0, ESR, 4), 0);
}

#[test]
fn unknown_register_reads_zero_and_sets_esr() {
    let mut lapic = enabled();
    assert_eq!(lapic.read_page(0, 0x3d0, 4), 0);
    lapic.write_page(0, ESR, 4, 0);
    assert_eq!(lapic.read_page(0, ESR, 4), 0x80);
}

#[test]
fn only_aligned_words_of_the_page_are_registers() {
    let mut lapic = enabled();
    assert_eq!(lapic.read_page(0, 0x31, 1), 0);
    assert_eq!(lapic.read_page(0, 0x32, 2), 5);
    assert_eq!(lapic.read_page(0, 0x34, 4), 0);
    lapic.write_page(0, 0x81, 1, 0xff);
    assert_eq!(lapic.cr8(), 0);
}

/// Linux calibrate_APIC_clock: divide by 16, count down from the top.
#[test]
fn linux_timer_calibration_measures_62_5_mhz() {
    let mut lapic = enabled();
    lapic.write_page(0, LVT_TIMER, 4, 0xec);
    lapic.write_page(0, 0x3e0, 4, 3);
    lapic.write_page(0, 0x380, 4, 0xffff_ffff);
    let first = lapic.read_page(1_000, 0x390, 4);
    let second = lapic.read_page(1_000 + 100_000_000, 0x390, 4);
    assert_eq!(first - second, 100_000_000 / 16);
}

#[test]
fn one_shot_timer_interrupts_once() {
    let mut lapic = enabled();
    lapic.write_page(0, LVT_TIMER, 4, 0xec);
    lapic.write_page(0, 0x3e0, 4, 0x0b);
    lapic.write_page(500, 0x380, 4, 1000);
    assert_eq!(lapic.next_deadline(), Some(1500));
    lapic.advance(1499);
    assert!(!lapic.interrupt_requested());
    lapic.advance(1500);
    assert_eq!(lapic.acknowledge(), Some(0xec));
    assert_eq!(lapic.next_deadline(), None);
}

#[test]
fn masked_timer_has_no_deadline_and_its_expiry_is_lost() {
    let mut lapic = enabled();
    lapic.write_page(0, LVT_TIMER, 4, 0x1_00ec);
    lapic.write_page(0, 0x380, 4, 1000);
    assert_eq!(lapic.next_deadline(), None);
    lapic.write_page(5000, LVT_TIMER, 4, 0xec);
    assert_eq!(lapic.next_deadline(), None);
    assert!(!lapic.interrupt_requested());
}

#[test]
fn tsc_deadline_reads_back_until_it_fires() {
    let mut lapic = enabled();
    lapic.set_tsc_deadline(0, 77, 7);
    assert_eq!(lapic.tsc_deadline(0), 0);
    lapic.write_page(0, LVT_TIMER, 4, 0x4_00ec);
    lapic.set_tsc_deadline(0, 30_000, 10_000);
    assert_eq!((lapic.tsc_deadline(0), lapic.next_deadline()), (30_000, Some(10_000)));
    assert_eq!(lapic.tsc_deadline(10_000), 0);
    assert_eq!(lapic.acknowledge(), Some(0xec));
    lapic.set_tsc_deadline(10_000, 90_000, 30_000);
    lapic.write_page(10_000, LVT_TIMER, 4, 0xec);
    assert_eq!(lapic.next_deadline(), None);
}

#[test]
fn lint0_is_a_level_as_extint_and_an_edge_as_fixed() {
    let mut lapic = enabled();
    lapic.write_page(0, LVT_LINT0, 4, 0x700);
    lapic.set_lint0(true);
    assert!(lapic.external_requested());
    lapic.set_lint0(false);
    assert!(!lapic.external_requested());
    lapic.write_page(0, LVT_LINT0, 4, 0x31);
    lapic.set_lint0(true);
    lapic.set_lint0(false);
    assert_eq!(lapic.acknowledge(), Some(0x31));
    assert_eq!(lapic.acknowledge(), None);
}

#[test]
fn init_resets_the_apic_and_drops_an_old_start_up() {
    let mut lapic = x2apic(2);
    lapic.accept(Delivery::StartUp, 0x10, false);
    lapic.accept(Delivery::Fixed, 0x40, false);
    lapic.accept(Delivery::Init, 0, false);
    lapic.accept(Delivery::StartUp, 0x9f, false);
    assert!(lapic.interrupt_requested(), "until it is taken");
    assert!(lapic.take_init(true) && !lapic.interrupt_requested());
    assert_eq!(lapic.take_start_up(), Some(0x9f));
    assert_eq!(lapic.base(), X2APIC);
}

#[test]
fn an_init_that_is_a_vm_exit_leaves_the_apic_alone() {
    let mut lapic = x2apic(2);
    lapic.accept(Delivery::Fixed, 0x40, false);
    lapic.accept(Delivery::Init, 0, false);
    assert!(lapic.take_init(false) && !lapic.take_init(false));
    assert_eq!(lapic.acknowledge(), Some(0x40));
}

#[test]
fn the_end_of_an_interrupt_is_deferred_only_if_nobody_waits_for_it() {
    let mut lapic = enabled();
    assert!(!lapic.defer_end(), "nothing is in service");
    lapic.accept(Delivery::Fixed, 0x40, true);
    lapic.acknowledge();
    assert!(!lapic.defer_end(), "the I/O APIC waits");
    lapic.write_page(0, EOI, 4, 0);
    lapic.accept(Delivery::Fixed, 0x40, false);
    lapic.accept(Delivery::Fixed, 0x50, false);
    assert_eq!(lapic.acknowledge(), Some(0x50));
    assert!(!lapic.defer_end(), "another interrupt waits");
    lapic.write_page(0, EOI, 4, 0);
    assert_eq!(lapic.acknowledge(), Some(0x40));
    assert!(lapic.defer_end());
}

#[test]
fn a_request_behind_a_deferred_end_is_seen_and_settled() {
    let mut lapic = enabled();
    for ended in [true, false] {
        lapic.accept(Delivery::Fixed, 0x40, false);
        lapic.acknowledge();
        assert!(lapic.defer_end() && !lapic.interrupt_requested());
        lapic.accept(Delivery::Fixed, 0x41, false);
        assert!(lapic.interrupt_requested(), "it may have ended");
        lapic.settle_end(ended);
        assert_eq!(lapic.interrupt_requested(), ended);
        lapic.settle_end(true);
        assert_eq!(lapic.interrupt_requested(), ended, "settled once");
        if !ended {
            lapic.write_page(0, EOI, 4, 0);
        }
        assert_eq!(lapic.acknowledge(), Some(0x41));
        lapic.write_page(0, EOI, 4, 0);
    }
}
