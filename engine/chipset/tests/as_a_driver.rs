//! The chipset as drivers see it: by ports, MMIO and MSRs, with time moved by hand.

use gasang_chipset::{Chipset, GeneralProtection, Pending};

const MILLISECOND: u64 = 1_000_000;
const IOAPIC: u64 = 0xfec0_0000;
const HPET: u64 = 0xfed0_0000;
const LAPIC: u64 = 0xfee0_0000;

fn out(chipset: &mut Chipset, port: u16, values: &[u8]) {
    for &value in values {
        assert!(chipset.port_write(0, port, 1, u32::from(value)));
    }
}

fn lapic_write(chipset: &mut Chipset, vcpu: usize, offset: u64, value: u64) {
    assert!(chipset.mmio_write(0, vcpu, LAPIC + offset, 4, value));
}

fn write_msr(chipset: &mut Chipset, vcpu: usize, msr: u32, value: u64) -> Result<(), GeneralProtection> {
    chipset.msr_write(0, vcpu, msr, value, &|tsc| tsc / 3).expect("ours")
}

fn redirect(chipset: &mut Chipset, pin: u64, entry: u64) {
    for (half, value) in [(1, entry >> 32), (0, entry & 0xffff_ffff)] {
        chipset.mmio_write(0, 0, IOAPIC, 4, 0x10 + 2 * pin + half);
        chipset.mmio_write(0, 0, IOAPIC + 0x10, 4, value);
    }
}

fn redirection(chipset: &mut Chipset, pin: u64) -> u64 {
    chipset.mmio_write(0, 0, IOAPIC, 4, 0x10 + 2 * pin);
    chipset.mmio_read(0, 0, IOAPIC + 0x10, 4).expect("ours")
}

/// Vectors 0x30 to 0x3f, the given master inputs open.
fn start_pic(chipset: &mut Chipset, master_mask: u8) {
    out(chipset, 0x20, &[0x11]);
    out(chipset, 0x21, &[0x30, 0x04, 0x01, master_mask]);
    out(chipset, 0xa0, &[0x11]);
    out(chipset, 0xa1, &[0x38, 0x02, 0x01, 0xff]);
}

fn enable_lapics(chipset: &mut Chipset, vcpus: usize) {
    (0..vcpus).for_each(|vcpu| lapic_write(chipset, vcpu, 0xf0, 0x1ff));
}

/// A PIT of 1 kHz on channel 0.
fn start_pit(chipset: &mut Chipset) {
    out(chipset, 0x43, &[0x34]);
    out(chipset, 0x40, &[0xa9, 0x04]);
}

#[test]
fn pit_reaches_the_bootstrap_processor_through_pic_and_lint0() {
    let mut chipset = Chipset::new(2);
    start_pic(&mut chipset, 0xfe);
    start_pit(&mut chipset);
    let deadline = chipset.next_deadline().expect("the timer runs");
    chipset.advance(deadline - 1);
    assert!(!chipset.pending(0).any());
    chipset.advance(deadline);
    assert_eq!(chipset.take_wakeups(), [0]);
    assert!(chipset.pending(0).interrupt && !chipset.pending(1).any());
    assert_eq!(chipset.acknowledge_interrupt(deadline, 0), Some(0x30));
    assert!(!chipset.pending(0).interrupt);
    assert_eq!(chipset.acknowledge_interrupt(deadline, 0), None);
}

#[test]
fn disabled_lapic_lets_the_pic_through_and_masked_lint0_does_not() {
    let mut chipset = Chipset::new(1);
    start_pic(&mut chipset, 0);
    lapic_write(&mut chipset, 0, 0xf0, 0x1ff);
    lapic_write(&mut chipset, 0, 0x350, 0x1_0700);
    chipset.set_line(0, 5, true);
    assert!(!chipset.pending(0).interrupt);
    write_msr(&mut chipset, 0, 0x1b, 0xfee0_0000).unwrap();
    assert!(chipset.pending(0).interrupt);
    assert_eq!(chipset.acknowledge_interrupt(0, 0), Some(0x35));
}

#[test]
fn pit_is_pin_2_of_the_ioapic() {
    let mut chipset = Chipset::new(1);
    enable_lapics(&mut chipset, 1);
    redirect(&mut chipset, 2, 0x51);
    start_pit(&mut chipset);
    for _ in 0..3 {
        let deadline = chipset.next_deadline().expect("the timer runs");
        chipset.advance(deadline);
        assert_eq!(chipset.acknowledge_interrupt(deadline, 0), Some(0x51));
        chipset.mmio_write(deadline, 0, LAPIC + 0xb0, 4, 0);
    }
}

#[test]
fn level_interrupt_comes_again_after_eoi_while_asserted() {
    let mut chipset = Chipset::new(1);
    enable_lapics(&mut chipset, 1);
    redirect(&mut chipset, 10, 0x8041);
    chipset.set_line(0, 10, true);
    assert_eq!(chipset.acknowledge_interrupt(0, 0), Some(0x41));
    assert_eq!(redirection(&mut chipset, 10), 0xc041);
    lapic_write(&mut chipset, 0, 0xb0, 0);
    assert_eq!(chipset.acknowledge_interrupt(0, 0), Some(0x41));
    chipset.set_line(0, 10, false);
    lapic_write(&mut chipset, 0, 0xb0, 0);
    assert!(!chipset.pending(0).interrupt);
    assert_eq!(redirection(&mut chipset, 10), 0x8041);
}

#[test]
fn ioapic_extint_pin_0_carries_the_pic() {
    let mut chipset = Chipset::new(1);
    enable_lapics(&mut chipset, 1);
    lapic_write(&mut chipset, 0, 0x350, 0x1_0700);
    redirect(&mut chipset, 0, 0x700);
    start_pic(&mut chipset, 0);
    chipset.set_line(0, 3, true);
    chipset.set_line(0, 1, true);
    assert_eq!(chipset.acknowledge_interrupt(0, 0), Some(0x31));
    out(&mut chipset, 0x20, &[0x20]);
    assert_eq!(chipset.acknowledge_interrupt(0, 0), Some(0x33));
}

#[test]
fn x2apic_self_ipi_and_icr_to_oneself() {
    let mut chipset = Chipset::new(1);
    write_msr(&mut chipset, 0, 0x1b, 0xfee0_0d00).unwrap();
    write_msr(&mut chipset, 0, 0x80f, 0x1ff).unwrap();
    write_msr(&mut chipset, 0, 0x83f, 0x61).unwrap();
    assert_eq!(chipset.acknowledge_interrupt(0, 0), Some(0x61));
    write_msr(&mut chipset, 0, 0x80b, 0).unwrap();
    write_msr(&mut chipset, 0, 0x830, 0x4_0062).unwrap();
    assert_eq!(chipset.acknowledge_interrupt(0, 0), Some(0x62));
    assert_eq!(chipset.mmio_read(0, 0, LAPIC + 0x20, 4), None);
}

#[test]
fn icr_shorthands_select_their_cpus() {
    let mut chipset = Chipset::new(3);
    enable_lapics(&mut chipset, 3);
    lapic_write(&mut chipset, 1, 0x300, 0xc_4040);
    assert_eq!(chipset.take_wakeups(), [0, 2]);
    lapic_write(&mut chipset, 1, 0x300, 0x8_4050);
    let vectors: Vec<_> = (0..3).map(|vcpu| chipset.acknowledge_interrupt(0, vcpu)).collect();
    assert_eq!(vectors, [Some(0x50); 3]);
}

#[test]
fn lowest_priority_goes_to_the_idlest_cpu() {
    let mut chipset = Chipset::new(3);
    enable_lapics(&mut chipset, 3);
    for vcpu in 0..3 {
        lapic_write(&mut chipset, vcpu, 0xd0, 1 << (24 + vcpu));
    }
    chipset.set_task_priority(0, 8);
    chipset.set_task_priority(1, 2);
    redirect(&mut chipset, 9, 0x0300_0000_0000_0941);
    chipset.set_line(0, 9, true);
    assert_eq!(chipset.take_wakeups(), [1]);
}

#[test]
fn init_and_start_up_wake_an_application_processor() {
    let mut chipset = Chipset::new(2);
    enable_lapics(&mut chipset, 1);
    lapic_write(&mut chipset, 0, 0x310, 1 << 24);
    lapic_write(&mut chipset, 0, 0x300, 0xc500);
    lapic_write(&mut chipset, 0, 0x300, 0x8500);
    assert!(chipset.pending(1).init && chipset.take_init(1, true));
    assert_eq!(chipset.pending(1), Pending::default());
    lapic_write(&mut chipset, 0, 0x300, 0x4699);
    assert_eq!(chipset.pending(1).start_up, Some(0x99));
    assert_eq!(chipset.take_start_up(1), Some(0x99));
    assert_eq!(chipset.take_wakeups(), [1]);
    assert!(!chipset.pending(0).any());
}

#[test]
fn nmi_by_icr_and_by_the_boards_line() {
    let mut chipset = Chipset::new(2);
    enable_lapics(&mut chipset, 1);
    lapic_write(&mut chipset, 0, 0x310, 1 << 24);
    lapic_write(&mut chipset, 0, 0x300, 0x4400);
    assert!(chipset.take_nmi(1) && !chipset.take_nmi(1));
    chipset.set_nmi_line(0, true);
    assert!(chipset.pending(0).nmi && !chipset.pending(1).nmi);
}

#[test]
fn msi_reaches_its_cpu() {
    let mut chipset = Chipset::new(2);
    enable_lapics(&mut chipset, 2);
    assert!(chipset.send_msi(0, 0xfee0_1000, 0x4072));
    assert_eq!(chipset.acknowledge_interrupt(0, 1), Some(0x72));
    assert!(!chipset.send_msi(0, 0xfee0_7000, 0x4072));
}

#[test]
fn tsc_deadline_timer_fires_at_its_time_and_at_once_when_late() {
    let mut chipset = Chipset::new(1);
    enable_lapics(&mut chipset, 1);
    lapic_write(&mut chipset, 0, 0x320, 0x4_00ec);
    write_msr(&mut chipset, 0, 0x6e0, 3 * MILLISECOND).unwrap();
    assert_eq!(chipset.next_deadline(), Some(MILLISECOND));
    assert_eq!(chipset.msr_read(0, 0, 0x6e0), Some(Ok(3 * MILLISECOND)));
    chipset.advance(MILLISECOND);
    assert_eq!(chipset.msr_read(MILLISECOND, 0, 0x6e0), Some(Ok(0)));
    assert_eq!(chipset.acknowledge_interrupt(MILLISECOND, 0), Some(0xec));
    lapic_write(&mut chipset, 0, 0xb0, 0);
    write_msr(&mut chipset, 0, 0x6e0, 1).unwrap();
    assert!(chipset.pending(0).interrupt);
    assert_eq!(chipset.next_deadline(), None);
}

#[test]
fn late_periodic_timers_do_not_storm() {
    let mut chipset = Chipset::new(1);
    enable_lapics(&mut chipset, 1);
    redirect(&mut chipset, 2, 0x51);
    start_pit(&mut chipset);
    lapic_write(&mut chipset, 0, 0x320, 0x2_00ec);
    lapic_write(&mut chipset, 0, 0x380, MILLISECOND);
    let now = 1000 * MILLISECOND;
    chipset.advance(now);
    assert!(chipset.next_deadline().is_some_and(|deadline| deadline > now));
    let mut vectors = Vec::new();
    while let Some(vector) = chipset.acknowledge_interrupt(now, 0) {
        vectors.push(vector);
        lapic_write(&mut chipset, 0, 0xb0, 0);
    }
    assert_eq!(vectors, [0xec, 0x51]);
}

#[test]
fn hpet_in_legacy_mode_replaces_the_pit() {
    let mut chipset = Chipset::new(1);
    enable_lapics(&mut chipset, 1);
    redirect(&mut chipset, 2, 0x51);
    start_pit(&mut chipset);
    chipset.mmio_write(0, 0, HPET + 0x100, 4, 0x4);
    chipset.mmio_write(0, 0, HPET + 0x108, 4, 500_000);
    chipset.mmio_write(0, 0, HPET + 0x10c, 4, 0);
    chipset.mmio_write(0, 0, HPET + 0x10, 4, 3);
    chipset.advance(5 * MILLISECOND - 1);
    assert!(!chipset.pending(0).interrupt);
    chipset.advance(5 * MILLISECOND);
    assert_eq!(chipset.acknowledge_interrupt(0, 0), Some(0x51));
}

#[test]
fn uart_interrupts_by_its_line_and_talks_both_ways() {
    let mut chipset = Chipset::new(1);
    enable_lapics(&mut chipset, 1);
    redirect(&mut chipset, 4, 0x34);
    out(&mut chipset, 0x3fc, &[0x0b]);
    out(&mut chipset, 0x3f9, &[0x01]);
    assert_eq!(chipset.serial_input(0, 0, b"ls"), 2);
    assert_eq!(chipset.take_wakeups(), [0]);
    assert_eq!(chipset.acknowledge_interrupt(0, 0), Some(0x34));
    let read: Vec<_> = (0..2).map(|_| chipset.port_read(0, 0x3f8, 1).unwrap() as u8).collect();
    assert_eq!((read.as_slice(), chipset.serial_pending(0)), (b"ls".as_slice(), 0));
    out(&mut chipset, 0x3f8, b"bin");
    assert_eq!(chipset.serial_output_len(0), 3);
    assert_eq!(chipset.take_serial_output(0), b"bin");
}

#[test]
fn wide_access_to_byte_ports_is_split() {
    let mut chipset = Chipset::new(1);
    assert!(chipset.port_write(0, 0x20, 2, 0xab00));
    assert_eq!(chipset.port_read(0, 0x21, 1), Some(0xab));
    assert_eq!(chipset.port_read(0, 0x21, 4), Some(0xffff_ffab));
    assert_eq!(chipset.port_read(0, 0x60, 2), None);
    assert!(!chipset.port_write(0, 0x70, 1, 0));
}

#[test]
fn pm_timer_is_read_whole_or_in_parts() {
    let mut chipset = Chipset::new(1);
    let second = 1000 * MILLISECOND;
    assert_eq!(chipset.port_read(second, 0x608, 4), Some(3_579_545));
    assert_eq!(chipset.port_read(second, 0x609, 1), Some(3_579_545 >> 8 & 0xff));
}

#[test]
fn time_does_not_run_backwards() {
    let mut chipset = Chipset::new(1);
    let late = chipset.port_read(1000 * MILLISECOND, 0x608, 4);
    assert_eq!(chipset.port_read(0, 0x608, 4), late);
}

#[test]
fn unknown_addresses_and_msrs_are_not_ours() {
    let mut chipset = Chipset::new(1);
    assert_eq!(chipset.mmio_read(0, 0, 0xfed0_0400, 4), None);
    assert!(!chipset.mmio_write(0, 0, 0x1000, 4, 0));
    assert_eq!(chipset.msr_read(0, 0, 0x10), None);
    assert_eq!(chipset.msr_read(0, 0, 0x802), Some(Err(GeneralProtection)));
    assert_eq!(chipset.mmio_read(0, 9, LAPIC, 4), None);
}
