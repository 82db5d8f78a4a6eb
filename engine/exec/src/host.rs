//! Instructions that the host processor executes: find the memory operand, run the stub, commit.

use crate::decode::Decoded;
use crate::flow::Flow;
use crate::masked::Mask;
use crate::operand::{element_address, linear_address, unchecked_linear};
use crate::stub::{Host, HostFault, Stub};
use gasang_cpu::{Access, Core, Exception, Trap, VcpuState};
use gasang_memory::{PAGE_DIRTY, PAGE_SIZE};
use gasang_x86::control::{cr0, cr4, xcr0};
use gasang_x86::exception as vector;
use std::sync::atomic::Ordering;

/// Which registers an instruction needs, and so which checks it is subject to and what has to be exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// General-purpose registers.
    Integer,
    /// General-purpose registers, in a VEX encoding.
    VexInteger,
    /// x87.
    X87,
    /// WAIT.
    Wait,
    /// MMX.
    Mmx,
    /// Legacy SSE.
    Sse,
    /// Legacy SSE between vector and MMX registers.
    SseAndMmx,
    /// VEX-encoded vectors.
    Avx,
    /// EVEX-encoded vectors, and opmasks.
    Avx512,
}

impl Unit {
    #[inline]
    pub(crate) fn check(self, core: &Core<'_>) -> Result<(), Trap> {
        match self {
            Unit::Integer => Ok(()),
            Unit::VexInteger if core.state.real_or_virtual_8086() => Err(Exception::invalid_opcode().into()),
            Unit::VexInteger => Ok(()),
            Unit::X87 => core.check_fpu(),
            Unit::Wait => core.check_wait(),
            Unit::Mmx => core.check_mmx(),
            Unit::Sse | Unit::SseAndMmx => core.check_simd(),
            Unit::Avx => core.check_avx(),
            Unit::Avx512 => core.check_avx512(),
        }
    }

    /// Whether x87 or MMX registers may be among those used.
    pub(crate) fn has_x87(self) -> bool {
        matches!(self, Unit::X87 | Unit::Wait | Unit::Mmx | Unit::SseAndMmx)
    }

    fn is_integer(self) -> bool {
        matches!(self, Unit::Integer | Unit::VexInteger)
    }
}

/// What the instruction does with its memory operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// It has none.
    None,
    Read,
    Write,
    ReadWrite,
}

/// A bit string (BT and its kin with a register): the operand lies at an offset that the register says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BitString {
    /// The register with the bit offset.
    pub register: usize,
}

/// How the host executes an instruction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostPlan {
    pub stub: Stub,
    pub unit: Unit,
    /// A pending x87 error is raised before anything else.
    pub waits: bool,
    pub memory: Use,
    /// Size of the memory operand in bytes, at most `BUFFER`.
    pub size: usize,
    /// A misaligned memory operand is #GP(0).
    pub aligned: bool,
    pub bit_string: Option<BitString>,
    pub mask: Option<Mask>,
}

/// The exception flags in the x87 status word, and their masks in the control word.
const X87_EXCEPTIONS: u8 = 0x3f;
/// The largest memory operand.
pub(crate) const BUFFER: usize = 128;

/// A copy of a memory operand, at an address with the same low bits, so that the host's alignment checks hold.
#[repr(C, align(64))]
pub(crate) struct Buffer {
    memory: [u8; BUFFER + 64],
    start: usize,
}

impl Buffer {
    /// Zeros, for an operand at this address.
    pub(crate) fn new(address: u64) -> Buffer {
        Buffer { memory: [0; BUFFER + 64], start: (address % 64) as usize }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + BUFFER]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + BUFFER]
    }

    /// Its host address.
    pub(crate) fn address(&mut self) -> u64 {
        self.bytes_mut().as_mut_ptr() as u64
    }
}

impl HostPlan {
    /// Execute the instruction.
    ///
    /// # Errors
    /// Whatever it raises; `Pending`.
    #[inline]
    pub(crate) fn execute(&self, core: &mut Core<'_>, decoded: &Decoded, host: &Host) -> Result<Flow, Trap> {
        self.unit.check(core)?;
        if self.waits {
            check_x87_error(core.state)?;
        }
        if self.memory == Use::None {
            self.run(core, host, 0, None)?;
            return Ok(Flow::Next);
        }
        if let Some(mask) = &self.mask {
            return self.execute_masked(core, decoded, host, mask);
        }
        let delta = self.bit_string.map_or(0, |string| string.delta(core.state, self.size));
        let operand = &decoded.memory;
        let offset = operand.offset(core.state).wrapping_add(delta) & operand.mask;
        let access = if self.memory == Use::Read { Access::Read } else { Access::Write };
        // Before anything else is said to the address.
        if self.aligned && unchecked_linear(core, operand.segment, offset) % self.size as u64 != 0 {
            return Err(Exception::general_protection(0).into());
        }
        let linear = linear_address(core, operand.segment, offset, self.size, access)?;
        let privilege = core.privilege();
        match core.host_for(linear, self.size, access, privilege)? {
            Some(address) => {
                if access == Access::Write {
                    mark_dirty(core, address);
                }
                self.run(core, host, address.wrapping_sub(delta), Some(offset))?;
            }
            None => self.run_on_split(core, host, linear, delta, offset)?,
        }
        Ok(Flow::Next)
    }

    /// As a whole if that is possible, element by element otherwise.
    fn execute_masked(
        &self,
        core: &mut Core<'_>,
        decoded: &Decoded,
        host: &Host,
        mask: &Mask,
    ) -> Result<Flow, Trap> {
        let operand = &decoded.memory;
        let offset = operand.offset(core.state);
        let access = if self.memory == Use::Read { Access::Read } else { Access::Write };
        let privilege = core.privilege();
        let whole = element_address(core, operand.segment, offset, self.size, access)
            .and_then(|linear| core.host_for(linear, self.size, access, privilege));
        let Ok(Some(address)) = whole else { return mask.execute(core, self, decoded, host) };
        if access == Access::Write {
            mark_dirty(core, address);
        }
        self.run(core, host, address, Some(offset))?;
        Ok(Flow::Next)
    }

    /// Run the stub. `memory` is the host address of its operand, `data` the operand's offset.
    #[inline]
    pub(crate) fn run(
        &self,
        core: &mut Core<'_>,
        host: &Host,
        memory: u64,
        data: Option<u64>,
    ) -> Result<(), Trap> {
        if self.unit.is_integer() {
            return host.run(self.stub, core.state, memory).map_err(|fault| trap(core, fault));
        }
        let outcome = host.run_extended(self.stub, core.state, memory, self.unit.has_x87());
        if matches!(self.unit, Unit::X87 | Unit::Wait) {
            host.hide_x87_pointers(core.state, data);
        }
        outcome.map_err(|fault| trap(core, fault))
    }

    /// The operand crosses a page, or lies in a device.
    #[cold]
    fn run_on_split(
        &self,
        core: &mut Core<'_>,
        host: &Host,
        linear: u64,
        delta: u64,
        offset: u64,
    ) -> Result<(), Trap> {
        if let Some(address) = self.contiguous(core, linear)? {
            return self.run(core, host, address.wrapping_sub(delta), Some(offset));
        }
        let memory = core.memory;
        let _atomic = (self.memory == Use::ReadWrite).then(|| memory.lock_split());
        let privilege = core.privilege();
        let mut buffer = Buffer::new(linear);
        let size = self.size.min(BUFFER);
        if self.memory != Use::Read {
            core.probe_write(linear, size, privilege)?;
        }
        // An x87 store whose unmasked exception waits for the next instruction writes nothing.
        if self.memory != Use::Write || self.unit == Unit::X87 {
            core.read_bytes(linear, &mut buffer.bytes_mut()[..size], privilege)?;
        }
        let before = Registers::of(core.state, self.unit);
        self.run(core, host, buffer.address().wrapping_sub(delta), Some(offset))?;
        if self.memory != Use::Read {
            let written = core.write_bytes(linear, &buffer.bytes()[..size], privilege);
            if written.is_err() {
                before.restore(core.state);
            }
            written?;
        }
        Ok(())
    }

    /// The host address of an operand that crosses into a page which follows in host memory too: then the host's own
    /// access is as atomic as the guest's.
    fn contiguous(&self, core: &mut Core<'_>, linear: u64) -> Result<Option<u64>, Trap> {
        let first_size = (PAGE_SIZE - linear % PAGE_SIZE) as usize;
        if first_size >= self.size {
            return Ok(None);
        }
        let privilege = core.privilege();
        let access = if self.memory == Use::Read { Access::Read } else { Access::Write };
        let second = core.wrap_linear(linear.wrapping_add(first_size as u64));
        if access == Access::Write {
            core.probe_write(linear, self.size, privilege)?;
        }
        let first = core.host_for(linear, first_size, access, privilege)?;
        let rest = core.host_for(second, self.size - first_size, access, privilege)?;
        let (Some(first), Some(rest)) = (first, rest) else { return Ok(None) };
        if first + first_size as u64 != rest {
            return Ok(None);
        }
        if access == Access::Write {
            mark_dirty(core, first);
            mark_dirty(core, rest);
        }
        Ok(Some(first))
    }
}

/// Raise the x87 error that waits, if one does (SDM vol. 1, 8.7). Without CR0.NE it goes to the interrupt controller as
/// IRQ 13, which nothing here receives: do what its handler would, FNCLEX.
///
/// # Errors
/// #MF.
pub(crate) fn check_x87_error(state: &mut VcpuState) -> Result<(), Trap> {
    let (masks, flags) = (state.extended.bytes[0], state.extended.bytes[2]);
    if state.extended.in_use() & xcr0::X87 == 0 || flags & !masks & X87_EXCEPTIONS == 0 {
        return Ok(());
    }
    if state.cr0 & cr0::NE != 0 {
        return Err(Exception::x87().into());
    }
    state.extended.bytes[2] = 0;
    state.extended.bytes[3] &= 0x7f;
    Ok(())
}

impl BitString {
    /// How far from the operand's address the bit's own operand-sized word lies (SDM vol. 2, BT).
    fn delta(self, state: &VcpuState, size: usize) -> u64 {
        let value = state.gpr[self.register & 15];
        match size {
            2 => (i64::from(value as i16) >> 4 << 1) as u64,
            4 => (i64::from(value as i32) >> 5 << 2) as u64,
            _ => (value as i64 >> 6 << 3) as u64,
        }
    }
}

/// What a stub may change, kept in case the operand cannot be written back.
pub(crate) struct Registers {
    gpr: [u64; 16],
    rflags: u64,
    extended: Option<Box<gasang_cpu::ExtendedState>>,
}

impl Registers {
    pub(crate) fn of(state: &VcpuState, unit: Unit) -> Registers {
        let extended = (!unit.is_integer()).then(|| Box::new(state.extended.clone()));
        Registers { gpr: state.gpr, rflags: state.rflags, extended }
    }

    pub(crate) fn restore(self, state: &mut VcpuState) {
        state.gpr = self.gpr;
        state.rflags = self.rflags;
        if let Some(extended) = self.extended {
            state.extended = *extended;
        }
    }
}

/// The guest writes the page at host address `address` without passing by `GuestMemory`.
#[inline]
pub(crate) fn mark_dirty(core: &Core<'_>, address: u64) {
    let flags = core.memory.flags(address);
    if flags.load(Ordering::Relaxed) & PAGE_DIRTY == 0 {
        flags.fetch_or(PAGE_DIRTY, Ordering::Relaxed);
    }
}

/// The guest's exception for one that the host raised.
#[cold]
pub(crate) fn trap(core: &Core<'_>, fault: HostFault) -> Trap {
    match fault {
        vector::DE => Exception::divide().into(),
        vector::SS => Exception::stack(0).into(),
        vector::GP => Exception::general_protection(0).into(),
        vector::AC => Exception::alignment().into(),
        vector::MF => Exception::x87().into(),
        vector::XM if core.state.cr4 & cr4::OSXMMEXCPT != 0 => Exception::simd().into(),
        // The host could not back a page of guest RAM: there is no way on.
        vector::PF => Trap::Shutdown,
        _ => Exception::invalid_opcode().into(),
    }
}
