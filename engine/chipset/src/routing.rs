//! Which device answers at which port, address and MSR of a PC.

use crate::chipset::Chipset;
use crate::lapic::{GeneralProtection, LocalApic};
use crate::pic::Register;

const PM_TIMER_PORT: u16 = 0x608;

const IOAPIC_BASE: u64 = 0xfec0_0000;
const HPET_BASE: u64 = 0xfed0_0000;
const HPET_LENGTH: u64 = 0x400;
const PAGE: u64 = 0x1000;

const IA32_APIC_BASE: u32 = 0x1b;
const IA32_TSC_DEADLINE: u32 = 0x6e0;
const X2APIC_FIRST: u32 = 0x800;
const X2APIC_LAST: u32 = 0x8ff;

/// A byte-wide register behind a port.
enum Port {
    Pic(Register),
    Pit(u16),
    SystemControl,
    Uart(usize, u16),
}

impl Port {
    fn at(port: u16) -> Option<Port> {
        Some(match port {
            0x20 => Port::Pic(Register::MasterCommand),
            0x21 => Port::Pic(Register::MasterData),
            0xa0 => Port::Pic(Register::SlaveCommand),
            0xa1 => Port::Pic(Register::SlaveData),
            0x4d0 => Port::Pic(Register::MasterElcr),
            0x4d1 => Port::Pic(Register::SlaveElcr),
            0x40..=0x43 => Port::Pit(port & 3),
            0x61 => Port::SystemControl,
            0x3f8..=0x3ff => Port::Uart(0, port & 7),
            0x2f8..=0x2ff => Port::Uart(1, port & 7),
            0x3e8..=0x3ef => Port::Uart(2, port & 7),
            0x2e8..=0x2ef => Port::Uart(3, port & 7),
            _ => return None,
        })
    }
}

fn is_pm_timer(port: u16) -> bool {
    (PM_TIMER_PORT..PM_TIMER_PORT + 4).contains(&port)
}

/// The low `size` bytes of a value; sizes of 8 and above keep all of it.
fn truncate(value: u64, size: u8) -> u64 {
    match size {
        0..8 => value & ((1 << (u32::from(size) * 8)) - 1),
        8.. => value,
    }
}

fn port_bytes(port: u16, size: u8) -> impl Iterator<Item = (u32, u16)> {
    (0..u16::from(size.clamp(1, 4))).map(move |index| (u32::from(index) * 8, port.wrapping_add(index)))
}

impl Chipset {
    /// IN of `size` bytes (1, 2 or 4); `None` if the first byte's port does not belong to the chipset.
    ///
    /// A wide access is split into bytes; bytes beyond the chipset's ports read as ones.
    pub fn port_read(&mut self, now: u64, port: u16, size: u8) -> Option<u32> {
        if is_pm_timer(port) {
            let now = self.clock(now);
            let count = u64::from(self.pm_timer.read(now));
            return Some(truncate(count >> (u32::from(port - PM_TIMER_PORT) * 8), size) as u32);
        }
        Port::at(port)?;
        let now = self.clock(now);
        Some(
            port_bytes(port, size)
                .fold(0, |value, (shift, port)| value | u32::from(self.read_byte(now, port)) << shift),
        )
    }

    fn read_byte(&mut self, now: u64, port: u16) -> u8 {
        match Port::at(port) {
            Some(Port::Pic(register)) => {
                let value = self.pic.read(register);
                self.sync_pic();
                value
            }
            Some(Port::Pit(offset)) => self.pit.read(now, offset),
            Some(Port::SystemControl) => self.pit.read_system_control(now),
            Some(Port::Uart(index, offset)) => {
                let value = self.uarts.get_mut(index).map_or(0xff, |uart| uart.read(offset));
                self.sync_uart(index);
                value
            }
            None => 0xff,
        }
    }

    /// OUT of `size` bytes (1, 2 or 4); false if the first byte's port does not belong to the chipset.
    pub fn port_write(&mut self, now: u64, port: u16, size: u8, value: u32) -> bool {
        if is_pm_timer(port) {
            return true;
        }
        if Port::at(port).is_none() {
            return false;
        }
        let now = self.clock(now);
        for (shift, port) in port_bytes(port, size) {
            self.write_byte(now, port, (value >> shift) as u8);
        }
        true
    }

    fn write_byte(&mut self, now: u64, port: u16, value: u8) {
        match Port::at(port) {
            Some(Port::Pic(register)) => {
                self.pic.write(register, value);
                self.sync_pic();
            }
            Some(Port::Pit(offset)) => {
                self.pit.write(now, offset, value);
                self.sync_pit(now);
                self.update_deadline();
            }
            Some(Port::SystemControl) => self.pit.write_system_control(now, value),
            Some(Port::Uart(index, offset)) => {
                if let Some(uart) = self.uarts.get_mut(index) {
                    uart.write(offset, value);
                }
                self.sync_uart(index);
            }
            None => {}
        }
    }

    /// Load of `size` bytes (1 to 8) by a vCPU; `None` if the address does not belong to the chipset.
    pub fn mmio_read(&mut self, now: u64, vcpu: usize, address: u64, size: u8) -> Option<u64> {
        if let Some(offset) = self.lapic_offset(vcpu, address) {
            let now = self.clock(now);
            let value = self.with_lapic(vcpu, |lapic| lapic.read_page(now, offset, size))?;
            return Some(truncate(value, size));
        }
        match address {
            HPET_BASE.. if address - HPET_BASE < HPET_LENGTH => {
                let now = self.clock(now);
                let value = self.hpet.read(now, address - HPET_BASE, size);
                self.sync_hpet();
                Some(truncate(value, size))
            }
            IOAPIC_BASE.. if address - IOAPIC_BASE < PAGE => {
                let offset = address & 0xff;
                let value = u64::from(self.ioapic.read(offset & !3));
                Some(truncate(value >> ((offset & 3) * 8), size))
            }
            _ => None,
        }
    }

    /// Store of `size` bytes (1 to 8) by a vCPU; false if the address does not belong to the chipset.
    pub fn mmio_write(&mut self, now: u64, vcpu: usize, address: u64, size: u8, value: u64) -> bool {
        let value = truncate(value, size);
        if let Some(offset) = self.lapic_offset(vcpu, address) {
            let now = self.clock(now);
            if let Some(effect) = self.with_lapic(vcpu, |lapic| lapic.write_page(now, offset, size, value)) {
                self.perform(vcpu, effect);
                self.clock(now);
            }
            return true;
        }
        match address {
            HPET_BASE.. if address - HPET_BASE < HPET_LENGTH => {
                let now = self.clock(now);
                self.hpet.write(now, address - HPET_BASE, size, value);
                self.sync_hpet();
                self.sync_pit(now);
                self.update_deadline();
            }
            IOAPIC_BASE.. if address - IOAPIC_BASE < PAGE => {
                self.clock(now);
                self.ioapic.write(address & 0xff, value as u32);
                self.deliver_from_ioapic();
            }
            _ => return false,
        }
        true
    }

    fn lapic_offset(&self, vcpu: usize, address: u64) -> Option<u64> {
        let page = self.lapics.get(vcpu)?.page()?;
        address.checked_sub(page).filter(|offset| *offset < PAGE)
    }

    /// RDMSR of the x2APIC registers, IA32_APIC_BASE and IA32_TSC_DEADLINE; `None` for other MSRs.
    ///
    /// # Errors
    /// [`GeneralProtection`] (inside `Some`) where the processor raises #GP(0).
    pub fn msr_read(&mut self, now: u64, vcpu: usize, msr: u32) -> Option<Result<u64, GeneralProtection>> {
        let read: fn(&mut LocalApic, u64, u8) -> Result<u64, GeneralProtection> = match msr {
            IA32_APIC_BASE => |lapic, _, _| Ok(lapic.base()),
            IA32_TSC_DEADLINE => |lapic, now, _| Ok(lapic.tsc_deadline(now)),
            X2APIC_FIRST..=X2APIC_LAST => LocalApic::read_msr,
            _ => return None,
        };
        let now = self.clock(now);
        self.with_lapic(vcpu, |lapic| read(lapic, now, msr as u8))
    }

    /// WRMSR of the same; `None` for other MSRs.
    ///
    /// `tsc_to_ns` converts a value of the guest's TSC into virtual time, rounding up: the timer must not
    /// interrupt before the guest can read its deadline. It may return a time that has passed.
    ///
    /// # Errors
    /// [`GeneralProtection`] (inside `Some`) where the processor raises #GP(0).
    pub fn msr_write(
        &mut self,
        now: u64,
        vcpu: usize,
        msr: u32,
        value: u64,
        tsc_to_ns: &dyn Fn(u64) -> u64,
    ) -> Option<Result<(), GeneralProtection>> {
        if !matches!(msr, IA32_APIC_BASE | IA32_TSC_DEADLINE | X2APIC_FIRST..=X2APIC_LAST) {
            return None;
        }
        let now = self.clock(now);
        let result = match msr {
            IA32_APIC_BASE => self.with_lapic(vcpu, |lapic| lapic.set_base(value))?,
            IA32_TSC_DEADLINE => {
                let deadline = tsc_to_ns(value);
                self.with_lapic(vcpu, |lapic| lapic.set_tsc_deadline(now, value, deadline))?;
                Ok(())
            }
            _ => match self.with_lapic(vcpu, |lapic| lapic.write_msr(now, msr as u8, value))? {
                Ok(effect) => {
                    self.perform(vcpu, effect);
                    Ok(())
                }
                Err(fault) => Err(fault),
            },
        };
        // A deadline that has already passed fires before the next instruction.
        self.clock(now);
        Some(result)
    }
}
