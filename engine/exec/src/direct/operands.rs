//! Operands: registers, memory, immediates (SDM vol. 2, 2.1, 2.2.1).

use crate::direct::Execution;
use gasang_cpu::{Access, VcpuState};
use gasang_memory::{PAGE_HAS_CODE, PAGE_SIZE};
use gasang_x86::{gpr, rflags};
use std::sync::atomic::Ordering;

const REX_W: u8 = 8;
const REX_R: u8 = 4;
const REX_X: u8 = 2;
const REX_B: u8 = 1;

/// What a ModRM byte says of its r/m operand.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// A register's number, as encoded with REX.
    Register(usize),
    /// A linear address.
    Memory(u64),
}

/// An operand to be read and then written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    Register(usize),
    /// A host address where the guest may write.
    Memory(u64),
}

impl Execution<'_, '_> {
    /// RIP of the instruction after, if so many bytes are still to be taken.
    #[inline]
    pub(super) fn next(&self, more: u64) -> u64 {
        self.start.wrapping_add(self.bytes.taken() + more)
    }

    /// Keep a REX prefix.
    #[inline]
    pub(super) fn set_rex(&mut self, rex: u8) {
        self.rex = rex;
        if rex & REX_W != 0 {
            self.size = 8;
        }
    }

    /// The register that an opcode's low bits name.
    #[inline]
    pub(super) fn opcode_register(&self, opcode: u8) -> usize {
        usize::from(opcode & 7 | (self.rex & REX_B) << 3)
    }

    /// Operand size of an instruction whose opcode's low bit tells bytes from larger operands.
    #[inline]
    pub(super) fn size_of(&self, opcode: u8) -> usize {
        if opcode & 1 == 0 { 1 } else { self.size }
    }

    /// Take a ModRM byte and what belongs to it: the register or opcode extension, and the r/m operand. `immediate`
    /// bytes follow.
    #[inline]
    pub(super) fn modrm(&mut self, immediate: u64) -> (usize, Place) {
        let modrm = self.bytes.byte();
        let register = usize::from(modrm >> 3 & 7 | (self.rex & REX_R) << 1);
        let number = modrm & 7;
        if modrm >= 0xc0 {
            return (register, Place::Register(usize::from(number | (self.rex & REX_B) << 3)));
        }
        (register, Place::Memory(self.effective_address(modrm, immediate).wrapping_add(self.base)))
    }

    #[inline]
    fn effective_address(&mut self, modrm: u8, immediate: u64) -> u64 {
        let mode = modrm >> 6;
        let mut address = 0;
        let mut base = modrm & 7;
        if base == 4 {
            let sib = self.bytes.byte();
            base = sib & 7;
            let index = sib >> 3 & 7 | (self.rex & REX_X) << 2;
            if index != 4 {
                address = self.core.state.gpr[usize::from(index)] << (sib >> 6);
            }
        } else if mode == 0 && base == 5 {
            let displacement = self.bytes.long();
            return self.next(immediate).wrapping_add(displacement);
        }
        if mode == 0 && base == 5 {
            return address.wrapping_add(self.bytes.long());
        }
        address = address.wrapping_add(self.core.state.gpr[usize::from(base | (self.rex & REX_B) << 3)]);
        match mode {
            0 => address,
            1 => address.wrapping_add(self.bytes.short()),
            _ => address.wrapping_add(self.bytes.long()),
        }
    }

    /// How many bytes an immediate for operands of this size has.
    #[inline]
    pub(super) fn immediate_size(size: usize) -> u64 {
        size.min(4) as u64
    }

    /// Take an immediate, sign-extended.
    #[inline]
    pub(super) fn immediate(&mut self, size: usize) -> u64 {
        match size {
            1 => self.bytes.short(),
            2 => self.bytes.word(),
            _ => self.bytes.long(),
        }
    }

    /// A register; above the operand's size it may be anything.
    #[inline]
    pub(super) fn register(&self, number: usize, size: usize) -> u64 {
        if size == 1 && self.is_high_byte(number) {
            return self.core.state.gpr[number - 4] >> 8;
        }
        self.core.state.gpr[number & 15]
    }

    #[inline]
    pub(super) fn set_register(&mut self, number: usize, size: usize, value: u64) {
        let high = size == 1 && self.is_high_byte(number);
        let slot = &mut self.core.state.gpr[if high { number - 4 } else { number & 15 }];
        match size {
            8 => *slot = value,
            4 => *slot = u64::from(value as u32),
            2 => *slot = *slot & !0xffff | value & 0xffff,
            _ if high => *slot = *slot & !0xff00 | (value & 0xff) << 8,
            _ => *slot = *slot & !0xff | value & 0xff,
        }
    }

    /// AH, CH, DH or BH.
    #[inline]
    fn is_high_byte(&self, number: usize) -> bool {
        self.rex == 0 && number & !3 == 4
    }

    /// Read an operand; in a register, what is above its size may be anything.
    #[inline]
    pub(super) fn read(&mut self, place: Place, size: usize) -> Option<u64> {
        match place {
            Place::Register(number) => Some(self.register(number, size)),
            Place::Memory(linear) => self.load(linear, size),
        }
    }

    /// Write an operand without reading it.
    #[inline]
    pub(super) fn write(&mut self, place: Place, size: usize, value: u64) -> Option<()> {
        match place {
            Place::Register(number) => self.set_register(number, size, value),
            Place::Memory(linear) => self.store(linear, size, value)?,
        }
        Some(())
    }

    /// An operand that will be written, and what it is now.
    #[inline]
    pub(super) fn target(&mut self, place: Place, size: usize) -> Option<(Target, u64)> {
        match place {
            Place::Register(number) => Some((Target::Register(number), self.register(number, size))),
            Place::Memory(linear) => {
                let host = self.host(linear, size, Access::Write)?;
                Some((Target::Memory(host), self.core.memory.load(host, size)))
            }
        }
    }

    #[inline]
    pub(super) fn set(&mut self, target: Target, size: usize, value: u64) {
        match target {
            Target::Register(number) => self.set_register(number, size, value),
            Target::Memory(host) => self.core.memory.store(host, size, value),
        }
    }

    #[inline]
    pub(super) fn load(&mut self, linear: u64, size: usize) -> Option<u64> {
        let host = self.host(linear, size, Access::Read)?;
        Some(self.core.memory.load(host, size))
    }

    #[inline]
    pub(super) fn store(&mut self, linear: u64, size: usize, value: u64) -> Option<()> {
        let host = self.host(linear, size, Access::Write)?;
        self.core.memory.store(host, size, value);
        Some(())
    }

    /// The host address of an operand within one page of RAM; to be written, of a page without code.
    #[inline]
    fn host(&mut self, linear: u64, size: usize, access: Access) -> Option<u64> {
        if linear & (PAGE_SIZE - 1) > PAGE_SIZE - size as u64 || !VcpuState::canonical(linear) {
            return None;
        }
        let place = self.core.translate(linear, access, self.privilege).ok()?;
        let host = place.host?;
        let has_code = || self.core.memory.flags(host).load(Ordering::Acquire) & PAGE_HAS_CODE != 0;
        if access == Access::Write && has_code() { None } else { Some(host) }
    }

    /// Change the status flags.
    #[inline]
    pub(super) fn set_status(&mut self, status: u64) {
        self.core.state.rflags = self.core.state.rflags & !rflags::STATUS | status;
    }

    /// Push a quadword.
    #[inline]
    pub(super) fn push(&mut self, value: u64) -> Option<()> {
        let pointer = self.core.state.gpr[gpr::RSP].wrapping_sub(8);
        self.store(pointer, 8, value)?;
        self.core.state.gpr[gpr::RSP] = pointer;
        Some(())
    }
}
