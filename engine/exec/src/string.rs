//! String instructions (SDM vol. 1, 7.3.9; vol. 2, REP). Each iteration is committed before the next begins, so that a
//! fault or an interrupt finds RCX, RSI and RDI where they have to be.

use crate::decode::Decoded;
use crate::flow::Flow;
use crate::operand::{checks_alignment, linear_address, mask, read, segment_number, write, write_gpr};
use crate::plan::Handler;
use crate::stub::strings::{self, Compared, Range};
use gasang_cpu::{Access, Core, Trap};
use gasang_memory::PAGE_SIZE;
use gasang_x86::control::debug;
use gasang_x86::{gpr, rflags, segment};
use iced_x86::{Code, Instruction, OpKind};

/// Iterations in one step, at most: interrupts wait that long.
const BOUND: u64 = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Move,
    Compare,
    Scan,
    Store,
    Load,
    Input,
    Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Once,
    Always,
    WhileEqual,
    WhileUnequal,
}

#[derive(Debug, Clone, Copy)]
struct Operation {
    kind: Kind,
    repeat: Repeat,
    /// Bytes of an element.
    size: usize,
    /// Bytes of RCX, RSI and RDI that count.
    address_size: usize,
    /// Segment of the source.
    segment: usize,
}

/// What some iterations came to.
struct Done {
    iterations: u64,
    /// The condition of REPE or REPNE ended the instruction.
    ended: bool,
}

/// The handler of a string instruction.
pub(crate) fn handler(instruction: &Instruction) -> Option<Handler> {
    kind_and_size(instruction.code()).map(|_| execute as Handler)
}

fn kind_and_size(code: Code) -> Option<(Kind, usize)> {
    Some(match code {
        Code::Movsb_m8_m8 => (Kind::Move, 1),
        Code::Movsw_m16_m16 => (Kind::Move, 2),
        Code::Movsd_m32_m32 => (Kind::Move, 4),
        Code::Movsq_m64_m64 => (Kind::Move, 8),
        Code::Cmpsb_m8_m8 => (Kind::Compare, 1),
        Code::Cmpsw_m16_m16 => (Kind::Compare, 2),
        Code::Cmpsd_m32_m32 => (Kind::Compare, 4),
        Code::Cmpsq_m64_m64 => (Kind::Compare, 8),
        Code::Scasb_AL_m8 => (Kind::Scan, 1),
        Code::Scasw_AX_m16 => (Kind::Scan, 2),
        Code::Scasd_EAX_m32 => (Kind::Scan, 4),
        Code::Scasq_RAX_m64 => (Kind::Scan, 8),
        Code::Stosb_m8_AL => (Kind::Store, 1),
        Code::Stosw_m16_AX => (Kind::Store, 2),
        Code::Stosd_m32_EAX => (Kind::Store, 4),
        Code::Stosq_m64_RAX => (Kind::Store, 8),
        Code::Lodsb_AL_m8 => (Kind::Load, 1),
        Code::Lodsw_AX_m16 => (Kind::Load, 2),
        Code::Lodsd_EAX_m32 => (Kind::Load, 4),
        Code::Lodsq_RAX_m64 => (Kind::Load, 8),
        Code::Insb_m8_DX => (Kind::Input, 1),
        Code::Insw_m16_DX => (Kind::Input, 2),
        Code::Insd_m32_DX => (Kind::Input, 4),
        Code::Outsb_DX_m8 => (Kind::Output, 1),
        Code::Outsw_DX_m16 => (Kind::Output, 2),
        Code::Outsd_DX_m32 => (Kind::Output, 4),
        _ => return None,
    })
}

fn execute(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let Some(operation) = Operation::of(&decoded.instruction) else { return Ok(Flow::Next) };
    if operation.repeat == Repeat::Once {
        operation.iterate(core)?;
        return Ok(Flow::Next);
    }
    if matches!(operation.kind, Kind::Input | Kind::Output) {
        // Also for no iterations at all.
        core.check_io(core.state.gpr[gpr::RDX] as u16, operation.size as u8)?;
    }
    let stepped = core.state.vmx.interceptions.monitor_trap_flag();
    let traced = stepped || core.state.rflags & rflags::TF != 0 || core.state.dr[7] & debug::DR7_ENABLED != 0;
    let mut budget = if traced { 1 } else { BOUND };
    loop {
        let count = core.state.gpr[gpr::RCX] & mask(operation.address_size);
        if count == 0 {
            return Ok(Flow::Next);
        }
        if budget == 0 {
            return Ok(Flow::Repeat);
        }
        let done = match operation.chunk(core, count.min(budget))? {
            Some(done) => done,
            None => operation.iterate(core)?,
        };
        write_gpr(core.state, gpr::RCX, count.wrapping_sub(done.iterations), operation.address_size);
        core.platform.iteration_committed();
        if done.ended {
            return Ok(Flow::Next);
        }
        budget = budget.saturating_sub(done.iterations);
    }
}

impl Operation {
    fn of(instruction: &Instruction) -> Option<Operation> {
        let (kind, size) = kind_and_size(instruction.code())?;
        let compares = matches!(kind, Kind::Compare | Kind::Scan);
        let repeat = match (instruction.has_rep_prefix(), instruction.has_repne_prefix()) {
            (false, false) => Repeat::Once,
            _ if !compares => Repeat::Always,
            (true, _) => Repeat::WhileEqual,
            (false, true) => Repeat::WhileUnequal,
        };
        let address_size = instruction
            .op_kinds()
            .find_map(|operand| match operand {
                OpKind::MemorySegSI | OpKind::MemoryESDI => Some(2),
                OpKind::MemorySegESI | OpKind::MemoryESEDI => Some(4),
                OpKind::MemorySegRSI | OpKind::MemoryESRDI => Some(8),
                _ => None,
            })
            .unwrap_or(8);
        let segment = segment_number(instruction.memory_segment()).unwrap_or(segment::DS);
        Some(Operation { kind, repeat, size, address_size, segment })
    }

    fn source(&self, core: &Core<'_>) -> u64 {
        core.state.gpr[gpr::RSI] & mask(self.address_size)
    }

    fn destination(&self, core: &Core<'_>) -> u64 {
        core.state.gpr[gpr::RDI] & mask(self.address_size)
    }

    /// One iteration, without counting RCX down.
    fn iterate(&self, core: &mut Core<'_>) -> Result<Done, Trap> {
        let (source, destination, size) = (self.source(core), self.destination(core), self.size);
        let mut ended = false;
        match self.kind {
            Kind::Move => {
                let value = read(core, self.segment, source, size)?;
                write(core, segment::ES, destination, size, value)?;
            }
            Kind::Store => {
                write(core, segment::ES, destination, size, core.state.gpr[gpr::RAX] & mask(size))?
            }
            Kind::Load => {
                let value = read(core, self.segment, source, size)?;
                write_gpr(core.state, gpr::RAX, value, size);
            }
            Kind::Compare => {
                let left = read(core, self.segment, source, size)?;
                let right = read(core, segment::ES, destination, size)?;
                ended = self.compare_values(core, left, right);
            }
            Kind::Scan => {
                let right = read(core, segment::ES, destination, size)?;
                ended = self.compare_values(core, core.state.gpr[gpr::RAX], right);
            }
            Kind::Input => self.input(core, destination)?,
            Kind::Output => self.output(core, source)?,
        }
        self.advance(core, 1);
        Ok(Done { iterations: 1, ended })
    }

    fn compare_values(&self, core: &mut Core<'_>, left: u64, right: u64) -> bool {
        let (mut left, mut right) = (left.to_le_bytes(), right.to_le_bytes());
        let compared = strings::compare(&Range::of(&mut left), &Range::of(&mut right), 1, self.size, true);
        self.commit_flags(core, &compared)
    }

    /// Whether the condition of the prefix ends the instruction.
    fn commit_flags(&self, core: &mut Core<'_>, compared: &Compared) -> bool {
        core.state.rflags = core.state.rflags & !rflags::STATUS | compared.flags & rflags::STATUS;
        let equal = compared.flags & rflags::ZF != 0;
        match self.repeat {
            Repeat::Once | Repeat::Always => false,
            Repeat::WhileEqual => !equal,
            Repeat::WhileUnequal => equal,
        }
    }

    fn input(&self, core: &mut Core<'_>, destination: u64) -> Result<(), Trap> {
        let port = core.state.gpr[gpr::RDX] as u16;
        self.check_port(core, port)?;
        let linear = linear_address(core, segment::ES, destination, self.size, Access::Write)?;
        // The port is read only if its value can be stored.
        let privilege = core.privilege();
        core.probe(linear, Access::Write, privilege)?;
        core.probe_write(linear, self.size, privilege)?;
        let value = core.platform.port_read(port, self.size as u8)?;
        core.write(linear, self.size, u64::from(value), privilege)
    }

    fn output(&self, core: &mut Core<'_>, source: u64) -> Result<(), Trap> {
        let port = core.state.gpr[gpr::RDX] as u16;
        self.check_port(core, port)?;
        let value = read(core, self.segment, source, self.size)?;
        core.platform.port_write(port, self.size as u8, value as u32)
    }

    fn check_port(&self, core: &mut Core<'_>, port: u16) -> Result<(), Trap> {
        core.check_io(port, self.size as u8)?;
        if core.state.dr[7] & debug::DR7_ENABLED != 0 {
            core.state.pending_debug |= core.io_breakpoints(port, self.size as u8);
        }
        Ok(())
    }

    fn uses_source(&self) -> bool {
        matches!(self.kind, Kind::Move | Kind::Compare | Kind::Load | Kind::Output)
    }

    fn uses_destination(&self) -> bool {
        !matches!(self.kind, Kind::Load | Kind::Output)
    }

    fn advance(&self, core: &mut Core<'_>, iterations: u64) {
        let distance = iterations.wrapping_mul(self.size as u64);
        let backwards = core.state.rflags & rflags::DF != 0;
        let step = if backwards { distance.wrapping_neg() } else { distance };
        for (used, number) in [(self.uses_source(), gpr::RSI), (self.uses_destination(), gpr::RDI)] {
            if used {
                let moved = core.state.gpr[number].wrapping_add(step);
                write_gpr(core.state, number, moved, self.address_size);
            }
        }
    }

    /// As many of `most` iterations as stay in a page of RAM, at the host's speed; None if that is no gain.
    fn chunk(&self, core: &mut Core<'_>, most: u64) -> Result<Option<Done>, Trap> {
        let plain = core.state.rflags & rflags::DF == 0 && !checks_alignment(core.state);
        let fast = matches!(self.kind, Kind::Move | Kind::Store | Kind::Compare | Kind::Scan);
        if most < 2 || !plain || !fast {
            return Ok(None);
        }
        let mut count = most;
        if self.uses_source() {
            count = count.min(self.within_page(core, self.segment, self.source(core), Access::Read, most));
        }
        let access = if matches!(self.kind, Kind::Move | Kind::Store) { Access::Write } else { Access::Read };
        count = count.min(self.within_page(core, segment::ES, self.destination(core), access, most));
        if count < 2 {
            return Ok(None);
        }
        let bytes = count * self.size as u64;
        let mut source = Range::of(&mut []);
        let privilege = core.privilege();
        let memory = core.memory;
        if self.uses_source() {
            let linear = core.logical_to_linear(self.segment, self.source(core), bytes, Access::Read)?;
            let host = core.host_for(linear, bytes as usize, Access::Read, privilege)?;
            let Some(range) = host.and_then(|host| Range::in_guest(memory, host, bytes)) else {
                return Ok(None);
            };
            source = range;
        }
        let linear = core.logical_to_linear(segment::ES, self.destination(core), bytes, access)?;
        let host = core.host_for(linear, bytes as usize, access, privilege)?;
        let Some(host) = host else { return Ok(None) };
        let Some(destination) = Range::in_guest(memory, host, bytes) else { return Ok(None) };
        if access == Access::Write {
            crate::host::mark_dirty(core, host);
        }
        let done = self.run_chunk(core, &source, &destination, count);
        self.advance(core, done.iterations);
        Ok(Some(done))
    }

    fn run_chunk(
        &self,
        core: &mut Core<'_>,
        source: &Range<'_>,
        destination: &Range<'_>,
        count: u64,
    ) -> Done {
        let (size, value) = (self.size, core.state.gpr[gpr::RAX]);
        let while_equal = self.repeat == Repeat::WhileEqual;
        let compared = match self.kind {
            Kind::Compare => strings::compare(source, destination, count, size, while_equal),
            Kind::Scan => strings::scan(destination, value, count, size, while_equal),
            Kind::Store => {
                strings::fill(destination, value, count, size);
                return Done { iterations: count, ended: false };
            }
            Kind::Move | Kind::Load | Kind::Input | Kind::Output => {
                strings::copy(destination, source, count, size);
                return Done { iterations: count, ended: false };
            }
        };
        let ended = self.commit_flags(core, &compared);
        Done { iterations: count - compared.left, ended }
    }

    /// How many of `most` elements from `offset` on lie in its page and its segment; 0 if the first does not.
    fn within_page(&self, core: &Core<'_>, segment: usize, offset: u64, access: Access, most: u64) -> u64 {
        let size = self.size as u64;
        let Ok(linear) = core.logical_to_linear(segment, offset, size, access) else { return 0 };
        let in_page = (PAGE_SIZE - linear % PAGE_SIZE) / size;
        let before_wrap = (mask(self.address_size) - offset) / size;
        let count = most.min(in_page).min(before_wrap);
        let whole = core.logical_to_linear(segment, offset, (count * size).max(1), access);
        if whole.is_ok() { count } else { 0 }
    }
}
