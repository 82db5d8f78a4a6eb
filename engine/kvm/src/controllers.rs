//! Interrupt controllers and PIT in the kernel: their state as the chipset has it, and their interrupt lines.

use crate::{doorbell, host_error};
use gasang_chipset::ioapic::{IoApicState, PINS};
use gasang_chipset::lapic::LocalApicState;
use gasang_chipset::pic::ChipState;
use gasang_chipset::pit::{ChannelState, PIT_HZ};
use gasang_chipset::{Controllers, Outward};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_PIT_FLAGS_HPET_LEGACY, KVM_PIT_SPEAKER_DUMMY, KvmIrqRouting, kvm_ioapic_state,
    kvm_ioapic_state__bindgen_ty_1, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1,
    kvm_irq_routing_irqchip, kvm_irqchip, kvm_irqchip__bindgen_ty_1, kvm_lapic_state, kvm_msi, kvm_pic_state,
    kvm_pit_channel_state, kvm_pit_config, kvm_pit_state2,
};
use kvm_ioctls::VmFd;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The chipset's number for the timer's line, and KVM's, at which its PIT is.
const TIMER_GSI: u32 = 2;
const KVM_TIMER_GSI: u32 = 0;
const ISA_INTERRUPTS: u32 = 16;
const IOAPIC_BASE: u64 = 0xfec0_0000;

/// KVM has no mode for a counter that was never programmed but this.
const NEVER_PROGRAMMED: u8 = 0xff;

/// The kernel's interrupt controllers of one machine.
#[derive(Debug, Clone)]
pub struct KernelControllers {
    vm: Arc<VmFd>,
}

impl KernelControllers {
    /// Make them; before there are processors.
    pub(crate) fn new(vm: Arc<VmFd>) -> io::Result<KernelControllers> {
        vm.create_irq_chip().map_err(host_error)?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        vm.create_pit2(pit).map_err(host_error)?;
        vm.set_gsi_routing(&routing()?).map_err(host_error)?;
        Ok(KernelControllers { vm })
    }

    /// Tell what a device here did.
    ///
    /// # Errors
    /// What KVM says.
    pub fn tell(&self, outward: Outward) -> io::Result<()> {
        match outward {
            Outward::Line { gsi, level } => self.set_line(gsi, level),
            Outward::LegacyReplaced(replaced) => {
                let mut pit = self.vm.get_pit2().map_err(host_error)?;
                pit.flags = if replaced { KVM_PIT_FLAGS_HPET_LEGACY } else { 0 };
                self.vm.set_pit2(&pit).map_err(host_error)
            }
        }
    }

    /// A descriptor whose every write is an edge of a line, until it is closed.
    ///
    /// # Errors
    /// What the host says.
    pub fn interrupt_descriptor(&self, gsi: u32) -> io::Result<OwnedFd> {
        doorbell::interrupt_descriptor(&self.vm, kvm_gsi(gsi))
    }

    fn set_line(&self, gsi: u32, level: bool) -> io::Result<()> {
        self.vm.set_irq_line(kvm_gsi(gsi), level).map_err(host_error)
    }

    /// Deliver a message signalled interrupt; whether somebody took it.
    ///
    /// # Errors
    /// What KVM says.
    pub fn signal_msi(&self, address: u64, data: u32) -> io::Result<bool> {
        let (address_lo, address_hi) = (address as u32, (address >> 32) as u32);
        let message = kvm_msi { address_lo, address_hi, data, ..Default::default() };
        Ok(self.vm.signal_msi(message).map_err(host_error)? > 0)
    }

    /// Have this, but for the local APICs, which the processors have.
    ///
    /// # Errors
    /// What KVM says.
    pub fn load(&self, controllers: &Controllers) -> io::Result<()> {
        // Lines first, while all inputs are masked: what was made of an edge is in the state that comes after.
        for gsi in (0..PINS as u32).filter(|gsi| controllers.lines >> gsi & 1 != 0) {
            self.set_line(gsi, true)?;
        }
        let [master, slave] = &controllers.pics;
        for (chip_id, state) in [(KVM_IRQCHIP_PIC_MASTER, master), (KVM_IRQCHIP_PIC_SLAVE, slave)] {
            self.set_chip(chip_id, kvm_irqchip__bindgen_ty_1 { pic: pic_to(state) })?;
        }
        let ioapic = ioapic_to(&controllers.ioapic, controllers.lines);
        self.set_chip(KVM_IRQCHIP_IOAPIC, kvm_irqchip__bindgen_ty_1 { ioapic })?;
        let flags = if controllers.legacy_replaced { KVM_PIT_FLAGS_HPET_LEGACY } else { 0 };
        let channels = controllers.pit.map(|channel| channel_to(&channel));
        self.vm.set_pit2(&kvm_pit_state2 { channels, flags, reserved: [0; 9] }).map_err(host_error)
    }

    /// What they have; `local_apics` is the processors'.
    ///
    /// # Errors
    /// What KVM says.
    pub fn store(&self, local_apics: Vec<LocalApicState>) -> io::Result<Controllers> {
        let (master, slave) = (self.chip(KVM_IRQCHIP_PIC_MASTER)?, self.chip(KVM_IRQCHIP_PIC_SLAVE)?);
        // SAFETY: the chip's number says which member of the union KVM has filled; every bit pattern is one.
        let pics = unsafe { [pic_from(&master.pic), pic_from(&slave.pic)] };
        let ioapic = self.chip(KVM_IRQCHIP_IOAPIC)?;
        // SAFETY: as above.
        let ioapic = ioapic_from(unsafe { &ioapic.ioapic });
        let pit = self.vm.get_pit2().map_err(host_error)?;
        let now = monotonic_nanoseconds();
        Ok(Controllers {
            pics,
            ioapic,
            pit: pit.channels.map(|channel| channel_from(&channel, now)),
            // KVM does not tell: bit 0 is the gate of its third counter.
            system_control: pit.channels[2].gate & 1,
            local_apics,
            lines: 0,
            legacy_replaced: pit.flags & KVM_PIT_FLAGS_HPET_LEGACY != 0,
        })
    }

    fn set_chip(&self, chip_id: u32, chip: kvm_irqchip__bindgen_ty_1) -> io::Result<()> {
        self.vm.set_irqchip(&kvm_irqchip { chip_id, pad: 0, chip }).map_err(host_error)
    }

    fn chip(&self, chip_id: u32) -> io::Result<kvm_irqchip__bindgen_ty_1> {
        let mut chip = kvm_irqchip { chip_id, ..Default::default() };
        self.vm.get_irqchip(&mut chip).map_err(host_error)?;
        Ok(chip.chip)
    }
}

/// KVM's number of a line.
fn kvm_gsi(gsi: u32) -> u32 {
    if gsi == TIMER_GSI { KVM_TIMER_GSI } else { gsi }
}

/// A PC's wiring: ISA interrupts go to both controllers, the timer's to input 2 of the I/O APIC.
fn routing() -> io::Result<KvmIrqRouting> {
    let entry = |gsi, irqchip, pin| kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        flags: 0,
        pad: 0,
        u: kvm_irq_routing_entry__bindgen_ty_1 { irqchip: kvm_irq_routing_irqchip { irqchip, pin } },
    };
    let isa = (0..ISA_INTERRUPTS).filter(|&gsi| gsi != 2).map(|gsi| match gsi {
        0..8 => entry(gsi, KVM_IRQCHIP_PIC_MASTER, gsi),
        _ => entry(gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - 8),
    });
    let pins = (0..PINS as u32).filter(|&gsi| gsi != 2);
    let pins =
        pins.map(|gsi| entry(gsi, KVM_IRQCHIP_IOAPIC, if gsi == KVM_TIMER_GSI { TIMER_GSI } else { gsi }));
    let entries: Vec<_> = isa.chain(pins).collect();
    KvmIrqRouting::from_entries(&entries).map_err(|_| io::Error::other("too many interrupt routes"))
}

fn pic_to(state: &ChipState) -> kvm_pic_state {
    kvm_pic_state {
        last_irr: state.lines,
        irr: state.requests,
        imr: state.mask,
        isr: state.in_service,
        priority_add: state.highest_priority,
        irq_base: state.vector_base,
        read_reg_select: state.read_in_service.into(),
        poll: state.poll.into(),
        special_mask: state.special_mask.into(),
        init_state: state.initializing,
        auto_eoi: state.auto_eoi.into(),
        rotate_on_auto_eoi: state.rotate_on_auto_eoi.into(),
        special_fully_nested_mode: state.special_fully_nested.into(),
        init4: state.wants_mode.into(),
        elcr: state.elcr,
        elcr_mask: state.elcr_writable,
    }
}

fn pic_from(state: &kvm_pic_state) -> ChipState {
    ChipState {
        lines: state.last_irr,
        requests: state.irr,
        mask: state.imr,
        in_service: state.isr,
        highest_priority: state.priority_add & 7,
        vector_base: state.irq_base,
        read_in_service: state.read_reg_select != 0,
        poll: state.poll != 0,
        special_mask: state.special_mask != 0,
        initializing: state.init_state,
        wants_mode: state.init4 != 0,
        auto_eoi: state.auto_eoi != 0,
        rotate_on_auto_eoi: state.rotate_on_auto_eoi != 0,
        special_fully_nested: state.special_fully_nested_mode != 0,
        elcr: state.elcr,
        elcr_writable: state.elcr_mask,
    }
}

/// A level-triggered input requests as long as its line is asserted, an edge-triggered one until it is sent.
fn ioapic_to(state: &IoApicState, lines: u32) -> kvm_ioapic_state {
    const LEVEL: u64 = 1 << 15;
    let level = state.entries.iter().enumerate().filter(|(_, entry)| **entry & LEVEL != 0);
    let level = level.fold(0u32, |pins, (pin, _)| pins | 1 << pin);
    kvm_ioapic_state {
        base_address: IOAPIC_BASE,
        ioregsel: state.select.into(),
        id: state.id.into(),
        irr: state.requests & !level | lines & level,
        pad: 0,
        redirtbl: state.entries.map(|bits| kvm_ioapic_state__bindgen_ty_1 { bits }),
    }
}

fn ioapic_from(state: &kvm_ioapic_state) -> IoApicState {
    IoApicState {
        select: state.ioregsel as u8,
        id: state.id as u8,
        requests: state.irr,
        // SAFETY: both members of the union are the same 64 bits.
        entries: state.redirtbl.map(|entry| unsafe { entry.bits }),
    }
}

fn channel_to(state: &ChannelState) -> kvm_pit_channel_state {
    // The next byte is the low one, or the high one, of two; or there is but one.
    let byte = |second: bool| match (state.access, second) {
        (3, true) => 4,
        (access, _) => access,
    };
    kvm_pit_channel_state {
        count: if state.count == 0 { 0x1_0000 } else { state.count.into() },
        latched_count: state.count_latch.unwrap_or_default(),
        count_latched: if state.count_latch.is_some() { byte(state.high_next) } else { 0 },
        status_latched: state.status_latch.is_some().into(),
        status: state.status_latch.unwrap_or_default(),
        read_state: byte(state.high_next),
        write_state: byte(state.low_byte.is_some()),
        write_latch: state.low_byte.unwrap_or_default(),
        rw_mode: state.access,
        mode: state.mode.unwrap_or(NEVER_PROGRAMMED),
        bcd: state.bcd.into(),
        gate: state.gate.into(),
        count_load_time: 0,
    }
}

/// `now` is by the clock that KVM notes loads in.
fn channel_from(state: &kvm_pit_channel_state, now: i64) -> ChannelState {
    let mode = Some(state.mode).filter(|&mode| mode <= 5);
    let passed = now.saturating_sub(state.count_load_time).max(0) as u128;
    let elapsed = (passed * u128::from(PIT_HZ) / 1_000_000_000) as u64;
    ChannelState {
        gate: state.gate != 0,
        mode,
        bcd: state.bcd != 0,
        access: state.rw_mode,
        count: state.count as u16,
        elapsed: mode.map(|_| elapsed),
        count_latch: (state.count_latched != 0).then_some(state.latched_count),
        status_latch: (state.status_latched != 0).then_some(state.status),
        low_byte: (state.write_state == 4).then_some(state.write_latch),
        high_next: state.read_state == 4,
    }
}

/// A local APIC's registers as bytes of its page.
pub(crate) fn lapic_to(state: &LocalApicState) -> kvm_lapic_state {
    let mut page = kvm_lapic_state::default();
    for (place, register) in page.regs.chunks_mut(16).zip(state.registers) {
        place.iter_mut().zip(register.to_le_bytes()).for_each(|(place, byte)| *place = byte as i8);
    }
    page
}

pub(crate) fn lapic_from(page: &kvm_lapic_state, base: u64, tsc_deadline: u64) -> LocalApicState {
    let register = |number: usize| {
        let bytes = page.regs.iter().skip(number * 16).take(4);
        bytes.rev().fold(0, |value, &byte| value << 8 | u32::from(byte as u8))
    };
    LocalApicState { registers: std::array::from_fn(register), base, tsc_deadline }
}

fn monotonic_nanoseconds() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is valid for the call, and the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gasang_chipset::Chipset;

    /// A chipset in use: PIC in the midst of its initialization, timers running, an interrupt in service.
    fn used() -> Controllers {
        let mut chipset = Chipset::new(2);
        for (port, value) in
            [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xfa), (0xa0, 0x11), (0xa1, 0x28)]
        {
            chipset.port_write(0, port, 1, value);
        }
        for (port, value) in [(0x43, 0x34), (0x40, 0xa9), (0x40, 0x04), (0x43, 0xb6), (0x42, 0x12)] {
            chipset.port_write(0, port, 1, value);
        }
        chipset.mmio_write(0, 0, 0xfec0_0000, 4, 0x10 + 2 * 11);
        chipset.mmio_write(0, 0, 0xfec0_0010, 4, 0x1_8077);
        chipset.set_line(0, 11, true);
        chipset.mmio_write(0, 0, 0xfee0_00f0, 4, 0x1ff);
        chipset.give_controllers(700_000)
    }

    #[test]
    fn what_kvm_is_told_says_the_same_when_it_comes_back() {
        let Controllers { pics, ioapic, pit, local_apics, lines, .. } = used();
        assert_eq!(pics.map(|state| pic_from(&pic_to(&state))), pics);
        assert_eq!(lines, 1 << 11);
        let back = ioapic_from(&ioapic_to(&ioapic, lines));
        assert_eq!((back.entries, back.id, back.select), (ioapic.entries, ioapic.id, ioapic.select));
        assert_eq!(back.requests, ioapic.requests | 1 << 11, "level-triggered: its line");
        for channel in pit {
            let back = channel_from(&channel_to(&channel), 0);
            assert_eq!(ChannelState { elapsed: None, ..back }, ChannelState { elapsed: None, ..channel });
            assert_eq!(back.elapsed, channel.mode.map(|_| 0), "it begins its period anew");
        }
        for apic in local_apics {
            assert_eq!(lapic_from(&lapic_to(&apic), apic.base, apic.tsc_deadline), apic);
        }
    }
}
