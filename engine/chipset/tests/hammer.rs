//! Arbitrary accesses at arbitrary times: nothing panics, and time always moves on.

use gasang_chipset::Chipset;

/// xorshift64*: the same sequence in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Small, large, single bits, values that mean something, and arbitrary ones.
    fn value(&mut self) -> u64 {
        match self.below(6) {
            0 => self.below(16),
            1 => self.below(0x400),
            2 => 1 << self.below(64),
            3 => u64::MAX - self.below(16),
            4 => self.pick(&VALUES),
            _ => self.next(),
        }
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

const VCPUS: usize = 3;
const PORTS: [(u16, u64); 11] = [
    (0x20, 2),
    (0xa0, 2),
    (0x40, 4),
    (0x61, 1),
    (0x4d0, 2),
    (0x3f8, 8),
    (0x2f8, 8),
    (0x3e8, 8),
    (0x2e8, 8),
    (0x608, 4),
    (0, 0x1_0000),
];
/// What drivers write: APIC base, spurious vector, LVT and ICR values, PIT control words, divisors.
const VALUES: [u64; 14] = [
    0xfee0_0800,
    0xfee0_0c00,
    0xfee0_0000,
    0x1ff,
    0x2_00ec,
    0x4_00ec,
    0xec,
    0x700,
    0x8_4050,
    0xc_4500,
    0x34,
    0xb0,
    0x8041,
    0x0b,
];
const PAGES: [(u64, u64); 4] =
    [(0xfec0_0000, 0x50), (0xfed0_0000, 0x400), (0xfee0_0000, 0x400), (0xfec0_0000, 0x30_0000)];

fn access(chipset: &mut Chipset, random: &mut Random, now: u64) {
    let vcpu = random.below(VCPUS as u64 + 1) as usize;
    let (first, count) = random.pick(&PORTS);
    let port = first.wrapping_add(random.below(count) as u16);
    let (page, length) = random.pick(&PAGES);
    let alignment = random.pick(&[!0, !3, !0xf]);
    let address = page + (random.below(length) & alignment);
    let size = random.pick(&[1, 2, 4, 8, 0, 3, 200]);
    let (x2apic, any) = (0x800 + random.below(0x40) as u32, random.next() as u32);
    let msr = random.pick(&[0x1b, 0x6e0, x2apic, any]);
    let value = random.value();
    match random.below(16) {
        0 => drop(chipset.port_read(now, port, size)),
        1..4 => drop(chipset.port_write(now, port, size, value as u32)),
        4 => drop(chipset.mmio_read(now, vcpu, address, size)),
        5..8 => drop(chipset.mmio_write(now, vcpu, address, size, value)),
        8 => drop(chipset.msr_read(now, vcpu, msr)),
        9..11 => drop(chipset.msr_write(now, vcpu, msr, value, &|tsc| tsc)),
        11 => chipset.set_line(now, value as u32 & 0x1f, value & 0x20 != 0),
        12 => drop(chipset.acknowledge_interrupt(now, vcpu)),
        13 => drop((chipset.take_nmi(vcpu), chipset.take_init(vcpu, true), chipset.take_start_up(vcpu))),
        14 => drop((chipset.serial_input(now, vcpu, b"input"), chipset.take_serial_output(vcpu))),
        _ => chipset.set_task_priority(vcpu, value as u8),
    }
    chipset.send_msi(now, 0xfee0_0000 | value & 0xf_fffc, random.next() as u32 & 0xffff);
}

/// Whatever was programmed, `advance` consumes what is due, in one call.
fn check_time(chipset: &mut Chipset, now: u64) {
    chipset.advance(now);
    if let Some(deadline) = chipset.next_deadline() {
        assert!(deadline > now, "deadline {deadline} at {now}");
    }
}

/// `pending` says exactly what can be taken.
fn check_pending(chipset: &Chipset, now: u64) {
    for vcpu in 0..VCPUS {
        let mut copy = chipset.clone();
        let pending = copy.pending(vcpu);
        assert_eq!(copy.acknowledge_interrupt(now, vcpu).is_some(), pending.interrupt);
        assert_eq!(copy.take_nmi(vcpu), pending.nmi);
    }
}

fn hammer(seed: u64, start: u64, steps: u32) {
    let mut random = Random(seed);
    let mut chipset = Chipset::new(VCPUS);
    let mut now = start;
    for step in 0..steps {
        access(&mut chipset, &mut random, now);
        check_time(&mut chipset, now);
        if step % 64 == 0 {
            check_pending(&chipset, now);
        }
        let next = chipset.next_deadline().unwrap_or(now);
        now = match random.below(4) {
            0 => now.saturating_add(random.value() >> 20),
            1 => next,
            2 => now.saturating_add(random.below(5000)),
            _ => now,
        };
    }
}

#[test]
fn random_accesses_neither_panic_nor_stop_time() {
    for seed in 1..=20 {
        hammer(seed * 0x9e37_79b9, 0, 20_000);
    }
}

#[test]
fn the_end_of_time_is_survived() {
    for seed in 1..=10 {
        hammer(seed * 0x1234_5677, u64::MAX - seed * 1000, 5_000);
    }
}

/// The fastest periods that a guest can program give at most one event each 10 µs for each device.
#[test]
fn shortest_periods_are_bounded() {
    let mut chipset = Chipset::new(1);
    for (port, value) in [(0x43, 0x34), (0x40, 1), (0x40, 0)] {
        chipset.port_write(0, port, 1, value);
    }
    for (address, value) in [
        (0xfee0_00f0, 0x1ff),
        (0xfee0_0320, 0x2_00ec),
        (0xfee0_03e0, 0x0b),
        (0xfee0_0380, 1),
        (0xfed0_0100, 0x4c | 20 << 9),
        (0xfed0_0108, 1),
        (0xfed0_0010, 1),
    ] {
        chipset.mmio_write(0, 0, address, 4, value);
    }
    let mut events = 0;
    while let Some(deadline) = chipset.next_deadline().filter(|&deadline| deadline < 1_000_000) {
        chipset.advance(deadline);
        events += 1;
    }
    assert!((100..=330).contains(&events), "{events}");
}
