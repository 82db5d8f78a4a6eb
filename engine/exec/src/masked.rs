//! Memory operands under a mask: elements that the mask leaves out are not accessed and raise nothing.

use crate::decode::Decoded;
use crate::flow::Flow;
use crate::host::{Buffer, HostPlan, Registers, Unit, Use, check_x87_error};
use crate::operand::{element_address, linear_address, segment_number};
use crate::plan::Handler;
use crate::stub::Host;
use crate::vector::{self, is_negative};
use gasang_cpu::{Access, Core, Trap};
use gasang_x86::{gpr, segment};
use iced_x86::{EncodingKind, Instruction, Mnemonic, OpKind, Register};

/// Where a mask is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The sign bits of a vector register's elements.
    Vector(usize),
    Opmask(usize),
}

/// The mask of a memory operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mask {
    source: Source,
    /// Bytes of an element in memory.
    element: usize,
    /// Elements of the operation; more than there are in memory if one is broadcast.
    lanes: usize,
    /// The chosen elements lie side by side (compress, expand).
    packed: bool,
    /// The elements left out must be accessible all the same.
    all_accessible: bool,
}

/// The mask of an instruction's memory operand, if it has one.
pub(crate) fn mask_of(instruction: &Instruction) -> Option<Mask> {
    if !instruction.op_kinds().any(|kind| kind == OpKind::Memory) {
        return None;
    }
    let size = instruction.memory_size();
    let element = element_size(instruction);
    let by_vector = matches!(
        instruction.mnemonic(),
        Mnemonic::Vmaskmovps | Mnemonic::Vmaskmovpd | Mnemonic::Vpmaskmovd | Mnemonic::Vpmaskmovq
    );
    if by_vector {
        // Both the store (memory, mask, data) and the load (data, mask, memory) have it in the middle.
        let source = Source::Vector(instruction.op1_register().number());
        return Some(Mask {
            source,
            element,
            lanes: size.size() / element,
            packed: false,
            all_accessible: false,
        });
    }
    let masked = instruction.encoding() == EncodingKind::EVEX && instruction.op_mask() != Register::None;
    if !masked || reads_all(instruction) {
        return None;
    }
    let widest = (0..instruction.op_count())
        .filter(|&index| instruction.op_kind(index) == OpKind::Register)
        .map(|index| instruction.op_register(index))
        .filter(|register| register.is_vector_register())
        .map(|register| register.size())
        .max()
        .unwrap_or(vector::WIDTH);
    let lanes = if is_broadcast(instruction) { widest / element } else { size.size() / element };
    let packed = matches!(
        instruction.mnemonic(),
        Mnemonic::Vcompressps
            | Mnemonic::Vcompresspd
            | Mnemonic::Vpcompressb
            | Mnemonic::Vpcompressw
            | Mnemonic::Vpcompressd
            | Mnemonic::Vpcompressq
            | Mnemonic::Vexpandps
            | Mnemonic::Vexpandpd
            | Mnemonic::Vpexpandb
            | Mnemonic::Vpexpandw
            | Mnemonic::Vpexpandd
            | Mnemonic::Vpexpandq
    );
    let source = Source::Opmask(instruction.op_mask().number());
    Some(Mask { source, element, lanes, packed, all_accessible: is_extraction(instruction) })
}

/// Whether what is in memory goes to more lanes than it has elements.
fn is_broadcast(instruction: &Instruction) -> bool {
    use Mnemonic::*;
    match instruction.mnemonic() {
        Vbroadcastss | Vbroadcastsd | Vpbroadcastb | Vpbroadcastw | Vpbroadcastd | Vpbroadcastq => true,
        Vbroadcastf32x2 | Vbroadcastf32x4 | Vbroadcastf32x8 | Vbroadcastf64x2 | Vbroadcastf64x4 => true,
        Vbroadcasti32x2 | Vbroadcasti32x4 | Vbroadcasti32x8 | Vbroadcasti64x2 | Vbroadcasti64x4 => true,
        _ => instruction.is_broadcast(),
    }
}

/// Bytes of what one bit of the mask stands for.
fn element_size(instruction: &Instruction) -> usize {
    match instruction.mnemonic() {
        // Each product is of parts of an element.
        Mnemonic::Vpmuldq | Mnemonic::Vpmuludq => 8,
        Mnemonic::Vpdpbusd | Mnemonic::Vpdpbusds | Mnemonic::Vpdpwssd | Mnemonic::Vpdpwssds => 4,
        _ => instruction.memory_size().element_size().max(1),
    }
}

/// Whether all of the memory operand is read, whatever the mask says of the result: where elements of the result do not
/// come from the same elements of the operand (SDM vol. 2, 2.8, exception types E4NF, E5NF and E6NF).
fn reads_all(instruction: &Instruction) -> bool {
    use Mnemonic::*;
    match instruction.mnemonic() {
        Valignd | Valignq | Vpalignr | Vdbpsadbw | Vmovddup | Vmovshdup | Vmovsldup | Vpconflictd
        | Vpconflictq => true,
        Vgf2p8affineinvqb | Vgf2p8affineqb | Vpmaddubsw | Vpmaddwd | Vpmultishiftqb => true,
        Vinsertf32x4 | Vinsertf32x8 | Vinsertf64x2 | Vinsertf64x4 => true,
        Vinserti32x4 | Vinserti32x8 | Vinserti64x2 | Vinserti64x4 => true,
        Vpackssdw | Vpacksswb | Vpackusdw | Vpackuswb => true,
        Vpermb | Vpermw | Vpermd | Vpermq | Vpermps | Vpermpd | Vpermilps | Vpermilpd => true,
        Vpermi2b | Vpermi2w | Vpermi2d | Vpermi2q | Vpermi2ps | Vpermi2pd => true,
        Vpermt2b | Vpermt2w | Vpermt2d | Vpermt2q | Vpermt2ps | Vpermt2pd => true,
        Vpshufb | Vpshufd | Vpshufhw | Vpshuflw | Vshufps | Vshufpd => true,
        Vshuff32x4 | Vshuff64x2 | Vshufi32x4 | Vshufi64x2 => true,
        Vpunpckhbw | Vpunpckhwd | Vpunpckhdq | Vpunpckhqdq | Vunpckhps | Vunpckhpd => true,
        Vpunpcklbw | Vpunpcklwd | Vpunpckldq | Vpunpcklqdq | Vunpcklps | Vunpcklpd => true,
        // The number of bits is in memory, not what is shifted.
        Vpslld | Vpsllq | Vpsllw | Vpsrad | Vpsraq | Vpsraw | Vpsrld | Vpsrlq | Vpsrlw => {
            instruction.op2_kind() == OpKind::Memory
        }
        _ => false,
    }
}

/// Whether it stores a part of a register: of exception type E6NF, but writing only what the mask chooses.
fn is_extraction(instruction: &Instruction) -> bool {
    use Mnemonic::*;
    matches!(
        instruction.mnemonic(),
        Vextractf32x4
            | Vextractf32x8
            | Vextractf64x2
            | Vextractf64x4
            | Vextracti32x4
            | Vextracti32x8
            | Vextracti64x2
            | Vextracti64x4
    )
}

impl Mask {
    /// Which elements in memory are accessed.
    fn chosen(&self, core: &Core<'_>, in_memory: usize) -> Vec<usize> {
        let lane_chosen: Vec<bool> = match self.source {
            Source::Vector(number) => {
                let value = vector::read(core, number);
                (0..self.lanes).map(|lane| is_negative(&value, lane, self.element)).collect()
            }
            Source::Opmask(number) => {
                let value = vector::read_opmask(core, number);
                (0..self.lanes.min(64)).map(|lane| value >> lane & 1 != 0).collect()
            }
        };
        let count = lane_chosen.iter().filter(|&&chosen| chosen).count();
        let chosen = |index: &usize| {
            if self.packed {
                *index < count
            } else {
                // What is broadcast is in several lanes.
                lane_chosen.iter().skip(*index).step_by(in_memory).any(|&chosen| chosen)
            }
        };
        (0..in_memory).filter(chosen).collect()
    }

    /// Execute an instruction whose operand cannot be accessed as a whole.
    ///
    /// # Errors
    /// What the chosen elements raise; `Pending`.
    pub(crate) fn execute(
        &self,
        core: &mut Core<'_>,
        plan: &HostPlan,
        decoded: &Decoded,
        host: &Host,
    ) -> Result<Flow, Trap> {
        let memory = &decoded.memory;
        let start = memory.offset(core.state);
        let access = if plan.memory == Use::Read { Access::Read } else { Access::Write };
        let privilege = core.privilege();
        let mut places = Vec::new();
        let in_memory = plan.size / self.element;
        let chosen = self.chosen(core, in_memory);
        for index in 0..in_memory {
            let is_chosen = chosen.contains(&index);
            if !is_chosen && !self.all_accessible {
                continue;
            }
            let offset = start.wrapping_add((index * self.element) as u64) & memory.mask;
            let linear = element_address(core, memory.segment, offset, self.element, access)?;
            core.probe(linear, access, privilege)?;
            if is_chosen {
                places.push((index * self.element, linear));
            }
        }
        let mut buffer = Buffer::new(start);
        if access == Access::Read {
            read_elements(core, &places, &mut buffer, self.element)?;
            plan.run(core, host, buffer.address(), Some(start))?;
            return Ok(Flow::Next);
        }
        let before = Registers::of(core.state, plan.unit);
        plan.run(core, host, buffer.address(), Some(start))?;
        let written = write_elements(core, &places, &buffer, self.element);
        if written.is_err() {
            before.restore(core.state);
        }
        written.map(|()| Flow::Next)
    }
}

fn read_elements(
    core: &mut Core<'_>,
    places: &[(usize, u64)],
    buffer: &mut Buffer,
    size: usize,
) -> Result<(), Trap> {
    let privilege = core.privilege();
    for &(at, linear) in places {
        let value = core.read(linear, size, privilege)?;
        buffer.bytes_mut()[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    }
    Ok(())
}

/// Write the elements at their linear addresses, all or none.
fn write_elements(
    core: &mut Core<'_>,
    places: &[(usize, u64)],
    buffer: &Buffer,
    size: usize,
) -> Result<(), Trap> {
    let privilege = core.privilege();
    for &(_, linear) in places {
        core.probe(linear, Access::Write, privilege)?;
        core.probe_write(linear, size, privilege)?;
    }
    for &(at, linear) in places {
        core.write(linear, size, vector::element(&buffer.bytes()[at..], 0, size), privilege)?;
    }
    Ok(())
}

/// The handler of MASKMOVQ and MASKMOVDQU, whose operand is at DS:RDI.
pub(crate) fn handler(instruction: &Instruction) -> Option<Handler> {
    match instruction.mnemonic() {
        Mnemonic::Maskmovq | Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu => Some(store_bytes),
        _ => None,
    }
}

fn store_bytes(core: &mut Core<'_>, decoded: &Decoded) -> Result<Flow, Trap> {
    let instruction = &decoded.instruction;
    let unit = match instruction.mnemonic() {
        Mnemonic::Maskmovq => Unit::Mmx,
        Mnemonic::Maskmovdqu => Unit::Sse,
        _ => Unit::Avx,
    };
    unit.check(core)?;
    if unit == Unit::Mmx {
        check_x87_error(core.state)?;
        // The processor does so even if the store faults.
        vector::enter_mmx(core);
    }
    let address_size = match instruction.op0_kind() {
        OpKind::MemorySegDI => 2,
        OpKind::MemorySegEDI => 4,
        _ => 8,
    };
    let (data, mask) = if unit == Unit::Mmx {
        let mmx = |index| vector::read_mmx(core, instruction.op_register(index).number()).to_vec();
        (mmx(1), mmx(2))
    } else {
        let xmm = |index| vector::read(core, instruction.op_register(index).number())[..16].to_vec();
        (xmm(1), xmm(2))
    };
    let segment = segment_number(instruction.memory_segment()).unwrap_or(segment::DS);
    let address_mask = crate::operand::mask(address_size);
    let start = core.state.gpr[gpr::RDI] & address_mask;
    // The whole operand has to be writable, whatever the mask says.
    let linear = linear_address(core, segment, start, data.len(), Access::Write)?;
    let privilege = core.privilege();
    core.probe(linear, Access::Write, privilege)?;
    core.probe_write(linear, data.len(), privilege)?;
    let mut buffer = Buffer::new(start);
    let mut places = Vec::new();
    for (index, &byte) in data.iter().enumerate().filter(|&(index, _)| is_negative(&mask, index, 1)) {
        let offset = start.wrapping_add(index as u64) & address_mask;
        places.push((index, element_address(core, segment, offset, 1, Access::Write)?));
        buffer.bytes_mut()[index] = byte;
    }
    write_elements(core, &places, &buffer, 1)?;
    Ok(Flow::Next)
}
