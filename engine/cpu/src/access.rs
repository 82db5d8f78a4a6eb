//! Reading and writing linear memory: RAM and devices, across pages, all or nothing.

use crate::core::Core;
use crate::exception::{Exception, Trap};
use crate::paging::{Access, Physical};
use crate::state::VcpuState;
use gasang_memory::{PAGE_HAS_CODE, PAGE_SIZE};
use std::sync::atomic::Ordering;

/// Whose rights an access has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// CPL 3.
    User,
    /// An explicit access at CPL < 3: SMAP yields to RFLAGS.AC.
    Supervisor,
    /// An implicit supervisor access (descriptor tables, TSS, the frame of an interrupt): SMAP always holds.
    Implicit,
}

fn bytes_left_in_page(linear: u64) -> u64 {
    PAGE_SIZE - linear % PAGE_SIZE
}

/// The largest device access that `left` bytes at `address` allow: naturally aligned, at most 8 bytes.
fn chunk(address: u64, left: usize) -> usize {
    [8, 4, 2].into_iter().find(|&size| left >= size && address % size as u64 == 0).unwrap_or(1)
}

impl Core<'_> {
    /// The privilege of data accesses by the current instruction.
    #[inline]
    pub fn privilege(&self) -> Privilege {
        if self.state.cpl() == 3 { Privilege::User } else { Privilege::Supervisor }
    }

    /// Linear addresses outside 64-bit mode wrap at 4 GiB.
    #[inline]
    pub fn wrap_linear(&self, linear: u64) -> u64 {
        if self.state.in_64bit_mode() { linear } else { linear & 0xffff_ffff }
    }

    /// As `wrap_linear`, but implicit accesses in IA-32e mode have 64-bit addresses even from compatibility mode.
    fn wrap_for(&self, linear: u64, privilege: Privilege) -> u64 {
        if privilege == Privilege::Implicit && self.state.long_mode() {
            linear
        } else {
            self.wrap_linear(linear)
        }
    }

    /// Host address of `size` bytes at `linear`, for an access straight to RAM; None if they cross a page or are not
    /// RAM. A write may follow within this instruction: whoever translated code from the bytes will hear of it.
    ///
    /// # Errors
    /// #PF.
    #[inline]
    pub fn host_for(
        &mut self,
        linear: u64,
        size: usize,
        access: Access,
        privilege: Privilege,
    ) -> Result<Option<u64>, Trap> {
        if size as u64 > bytes_left_in_page(linear) {
            return Ok(None);
        }
        let place = self.translate(linear, access, privilege)?;
        if let (Some(host), Access::Write) = (place.host, access) {
            self.before_write(host, size as u64);
        }
        Ok(place.host)
    }

    /// Read 1, 2, 4 or 8 bytes.
    ///
    /// # Errors
    /// #PF, or `Pending` for a device.
    #[inline]
    pub fn read(&mut self, linear: u64, size: usize, privilege: Privilege) -> Result<u64, Trap> {
        if let Some(host) = self.host_for(linear, size, Access::Read, privilege)? {
            return Ok(self.memory.load(host, size));
        }
        let mut bytes = [0; 8];
        self.read_bytes(linear, &mut bytes[..size], privilege)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Write 1, 2, 4 or 8 bytes.
    ///
    /// # Errors
    /// #PF, or `Pending` for a device. Nothing is written then (but for devices already answered).
    #[inline]
    pub fn write(&mut self, linear: u64, size: usize, value: u64, privilege: Privilege) -> Result<(), Trap> {
        if let Some(host) = self.host_for(linear, size, Access::Write, privilege)? {
            self.memory.store(host, size, value);
            return Ok(());
        }
        self.write_bytes(linear, &value.to_le_bytes()[..size], privilege)
    }

    /// Read any number of bytes.
    ///
    /// # Errors
    /// As `read`.
    pub fn read_bytes(&mut self, linear: u64, bytes: &mut [u8], privilege: Privilege) -> Result<(), Trap> {
        let mut at = linear;
        let mut rest = bytes;
        while !rest.is_empty() {
            let length = rest.len().min(bytes_left_in_page(at) as usize);
            let (part, tail) = rest.split_at_mut(length);
            let place = self.translate(at, Access::Read, privilege)?;
            match place.host {
                Some(host) => self.memory.copy_out(host, part),
                None if self.in_apic_access_page(place.address) => self.read_apic(place.address, part)?,
                None => self.read_device(place.address, part)?,
            }
            at = self.wrap_for(at.wrapping_add(length as u64), privilege);
            rest = tail;
        }
        Ok(())
    }

    /// Write any number of bytes. Every page is checked before the first byte is written.
    ///
    /// # Errors
    /// As `write`.
    pub fn write_bytes(&mut self, linear: u64, bytes: &[u8], privilege: Privilege) -> Result<(), Trap> {
        self.probe_write(linear, bytes.len(), privilege)?;
        let mut at = linear;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (part, tail) = rest.split_at(rest.len().min(bytes_left_in_page(at) as usize));
            let place = self.translate(at, Access::Write, privilege)?;
            match place.host {
                Some(host) => {
                    self.before_write(host, part.len() as u64);
                    self.memory.copy_in(host, part);
                }
                None if self.in_apic_access_page(place.address) => self.write_apic(place.address, part)?,
                None => self.write_device(place.address, part)?,
            }
            at = self.wrap_for(at.wrapping_add(part.len() as u64), privilege);
            rest = tail;
        }
        Ok(())
    }

    /// Check that `length` bytes could be written, without marking any page dirty (when they cross a page).
    ///
    /// # Errors
    /// #PF for the lowest page that refuses.
    pub fn probe_write(&mut self, linear: u64, length: usize, privilege: Privilege) -> Result<(), Trap> {
        if length as u64 <= bytes_left_in_page(linear) {
            return Ok(());
        }
        let mut offset = 0;
        while offset < length as u64 {
            let at = self.wrap_for(linear.wrapping_add(offset), privilege);
            self.probe(at, Access::Write, privilege)?;
            offset += bytes_left_in_page(at);
        }
        Ok(())
    }

    /// Fetch up to 15 instruction bytes at `linear`; how many there are before a page that cannot be fetched.
    ///
    /// # Errors
    /// #PF for the first byte, #GP for a non-canonical address, `Pending` never: instructions are not fetched from
    /// devices (they read as the bytes of an invalid opcode).
    pub fn fetch(&mut self, linear: u64, bytes: &mut [u8; 15]) -> Result<usize, Trap> {
        if self.state.in_64bit_mode() && !VcpuState::canonical(linear) {
            return Err(Exception::general_protection(0).into());
        }
        let first = self.fetch_page(linear, bytes, 0)?;
        if first == 15 {
            return Ok(15);
        }
        let next = self.wrap_linear(linear.wrapping_add(first as u64));
        Ok(self.fetch_page(next, bytes, first).unwrap_or(first))
    }

    /// The fault that fetching the byte at `linear` raises, for an instruction that needs it.
    ///
    /// # Errors
    /// That fault.
    pub fn fetch_fault(&mut self, linear: u64) -> Result<(), Trap> {
        if self.state.in_64bit_mode() && !VcpuState::canonical(linear) {
            return Err(Exception::general_protection(0).into());
        }
        let privilege = self.privilege();
        self.translate(linear, Access::Execute, privilege).map(|_| ())
    }

    fn fetch_page(&mut self, linear: u64, bytes: &mut [u8; 15], from: usize) -> Result<usize, Trap> {
        let privilege = self.privilege();
        let place = self.translate(linear, Access::Execute, privilege)?;
        let length = (15 - from).min(bytes_left_in_page(linear) as usize);
        match place.host {
            Some(host) => self.memory.copy_out(host, &mut bytes[from..from + length]),
            None => bytes[from..from + length].fill(0xff),
        }
        Ok(from + length)
    }

    /// Read at a physical address, RAM or not.
    ///
    /// # Errors
    /// `Pending` for a device.
    pub fn read_physical(&mut self, address: u64, size: usize) -> Result<u64, Trap> {
        match self.memory.host(address) {
            Some(host) => Ok(self.memory.load(host, size)),
            None => self.platform.mmio_read(address, size as u8),
        }
    }

    /// Write to RAM at a physical address. Beyond RAM nothing is written: the processor's own structures there are lost.
    pub fn write_ram(&mut self, address: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let at = address.wrapping_add(done as u64);
            let size = (bytes.len() - done).min((PAGE_SIZE - at % PAGE_SIZE) as usize);
            if let Some(host) = self.memory.host(at) {
                self.before_write(host, size as u64);
                self.memory.copy_in(host, &bytes[done..done + size]);
            }
            done += size;
        }
    }

    /// RAM is about to change, or marks in its paging structures just did: translated code there is told of.
    #[inline]
    pub(crate) fn before_write(&mut self, host: u64, length: u64) {
        if self.memory.flags(host).load(Ordering::Acquire) & PAGE_HAS_CODE != 0 {
            self.platform.code_written(host, length);
        }
    }

    fn read_device(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), Trap> {
        let mut done = 0;
        while done < bytes.len() {
            let at = address + done as u64;
            let size = chunk(at, bytes.len() - done);
            let value = self.platform.mmio_read(at, size as u8)?;
            bytes[done..done + size].copy_from_slice(&value.to_le_bytes()[..size]);
            done += size;
        }
        Ok(())
    }

    fn write_device(&mut self, address: u64, bytes: &[u8]) -> Result<(), Trap> {
        let mut done = 0;
        while done < bytes.len() {
            let at = address + done as u64;
            let size = chunk(at, bytes.len() - done);
            let mut value = [0; 8];
            value[..size].copy_from_slice(&bytes[done..done + size]);
            self.platform.mmio_write(at, size as u8, u64::from_le_bytes(value))?;
            done += size;
        }
        Ok(())
    }

    /// Where a physical byte is.
    pub fn physical(&self, address: u64) -> Physical {
        Physical { address, host: self.memory.host(address) }
    }
}
