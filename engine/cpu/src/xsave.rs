//! XSAVE and its kin (SDM vol. 1, 13.4-13.12).

use crate::core::Core;
use crate::cpuid::{Component, Feature};
use crate::exception::{Exception, Trap};
use crate::extended::{
    MXCSR, MXCSR_INITIAL, MXCSR_MASK, XMM, XMM_SIZE, check_mxcsr, narrow_pointers, refuse,
};
use crate::paging::Access;
use gasang_x86::control::{cr0, cr4, xcr0};

/// Which XSAVE instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveKind {
    /// XSAVE.
    Standard,
    /// XSAVEOPT.
    Opt,
    /// XSAVEC.
    Compacted,
    /// XSAVES.
    Supervisor,
}

const HEADER: usize = 512;
const HEADER_SIZE: usize = 64;
const EXTENDED: usize = HEADER + HEADER_SIZE;
/// In XCOMP_BV: the format is compacted.
const COMPACTED: u64 = 1 << 63;
/// The size of the area that any set of components needs at most.
const AREA: usize = 4096;
const COMPONENTS: std::ops::Range<u32> = 2..10;

fn word(bytes: &[u8; AREA], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default())
}

/// An image in the making or as read.
struct Area {
    bytes: [u8; AREA],
}

impl Core<'_> {
    fn check_xsave(&self, linear: u64, needed: Feature, supervisor: bool) -> Result<(), Trap> {
        if self.state.cr4 & cr4::OSXSAVE == 0 || !self.model.has(needed) {
            return Err(Exception::invalid_opcode().into());
        }
        if supervisor {
            self.check_privileged()?;
        }
        if self.state.cr0 & cr0::TS != 0 {
            return Err(Exception::device_not_available().into());
        }
        if linear % 64 != 0 { refuse() } else { Ok(()) }
    }

    /// How much of a component the mode can reach: half of the YMM registers outside 64-bit mode.
    fn reachable_part(&self, number: u32, part: &Component) -> usize {
        if number == xcr0::AVX.trailing_zeros() { self.reachable(part.size) } else { part.size }
    }

    /// XSAVE and its kin (`rfbm`: EDX:EAX); `wide` with REX.W.
    ///
    /// # Errors
    /// #UD, #NM, #GP(0) for misalignment, #PF.
    pub fn xsave(&mut self, linear: u64, rfbm: u64, kind: SaveKind, wide: bool) -> Result<(), Trap> {
        let needed = match kind {
            SaveKind::Standard => Feature::Xsave,
            SaveKind::Opt => Feature::Xsaveopt,
            SaveKind::Compacted => Feature::Xsavec,
            SaveKind::Supervisor => Feature::Xsaves,
        };
        self.check_xsave(linear, needed, kind == SaveKind::Supervisor)?;
        let compacted = matches!(kind, SaveKind::Compacted | SaveKind::Supervisor);
        let rfbm = rfbm & self.state.xcr0;
        let mut in_use = self.components_in_use();
        if compacted && self.state.extended.mxcsr() != MXCSR_INITIAL {
            in_use |= xcr0::SSE;
        }
        // XSAVE alone writes components in their initial configuration too.
        let written = if kind == SaveKind::Standard { rfbm } else { rfbm & in_use };
        // A fault is that of a write, though the old header is read first.
        self.probe(linear, Access::Write, self.privilege())?;
        self.probe_write(linear, HEADER + 8, self.privilege())?;
        let old_header = if compacted { 0 } else { self.read_header_word(linear)? };

        let mut area = Area { bytes: [0; AREA] };
        let mut pieces = self.save_legacy(&mut area, rfbm, written, compacted, wide);
        let states = old_header & !rfbm | in_use & rfbm;
        area.bytes[HEADER..HEADER + 8].copy_from_slice(&states.to_le_bytes());
        if compacted {
            area.bytes[HEADER + 8..HEADER + 16].copy_from_slice(&(rfbm | COMPACTED).to_le_bytes());
        }
        pieces.push((HEADER, if compacted { 16 } else { 8 }));
        for (number, part, offset) in self.model.places(written, compacted.then_some(rfbm)) {
            let length = self.reachable_part(number, &part);
            self.save_component(&mut area.bytes[offset..offset + length], number, &part, in_use);
            pieces.push((offset, length));
        }
        let end = pieces.iter().map(|(offset, length)| offset + length).max().unwrap_or(0);
        self.probe_write(linear, end, self.privilege())?;
        for (offset, length) in pieces {
            let bytes = &area.bytes[offset..offset + length];
            self.write_bytes(linear.wrapping_add(offset as u64), bytes, self.privilege())?;
        }
        Ok(())
    }

    fn read_header_word(&mut self, linear: u64) -> Result<u64, Trap> {
        self.read(linear.wrapping_add(HEADER as u64), 8, self.privilege())
    }

    /// Put x87, MXCSR and XMM into the legacy region; which pieces (offset, length) of it are to be written.
    fn save_legacy(
        &mut self,
        area: &mut Area,
        rfbm: u64,
        written: u64,
        compacted: bool,
        wide: bool,
    ) -> Vec<(usize, usize)> {
        let mut legacy = self.state.extended.clone();
        legacy.materialize_legacy();
        area.bytes[..XMM + XMM_SIZE].copy_from_slice(&legacy.bytes[..XMM + XMM_SIZE]);
        area.bytes[MXCSR + 4..MXCSR + 8].copy_from_slice(&MXCSR_MASK.to_le_bytes());
        if !wide {
            narrow_pointers(&mut area.bytes);
        }
        let mut pieces = Vec::with_capacity(8);
        if written & xcr0::X87 != 0 {
            pieces.extend([(0, MXCSR), (MXCSR + 8, XMM - MXCSR - 8)]);
        }
        let control = if compacted { written & xcr0::SSE } else { rfbm & (xcr0::SSE | xcr0::AVX) };
        if control != 0 {
            pieces.push((MXCSR, 8));
        }
        if written & xcr0::SSE != 0 {
            pieces.push((XMM, self.reachable(XMM_SIZE)));
        }
        pieces
    }

    /// Put a component of the extended region into `place`; its initial configuration is all zeroes.
    fn save_component(&self, place: &mut [u8], number: u32, part: &Component, in_use: u64) {
        if 1 << number == xcr0::PKRU {
            place.fill(0);
            place[..4].copy_from_slice(&self.state.pkru.to_le_bytes());
        } else if in_use >> number & 1 != 0 {
            let length = place.len();
            place.copy_from_slice(&self.state.extended.bytes[part.offset..part.offset + length]);
        }
    }

    /// XRSTOR, or XRSTORS if `supervisor`; `wide` with REX.W.
    ///
    /// # Errors
    /// As `xsave`; #GP(0) for a malformed image.
    pub fn xrstor(&mut self, linear: u64, rfbm: u64, supervisor: bool, wide: bool) -> Result<(), Trap> {
        let needed = if supervisor { Feature::Xsaves } else { Feature::Xsave };
        self.check_xsave(linear, needed, supervisor)?;
        let rfbm = rfbm & self.state.xcr0;
        let mut area = Area { bytes: [0; AREA] };
        self.read_bytes(linear, &mut area.bytes[..EXTENDED], self.privilege())?;
        let (states, layout) = (word(&area.bytes, HEADER), word(&area.bytes, HEADER + 8));
        let compacted = layout & COMPACTED != 0;
        self.check_header(&area, states, layout, supervisor)?;
        let loads_mxcsr =
            if compacted { rfbm & states & xcr0::SSE != 0 } else { rfbm & (xcr0::SSE | xcr0::AVX) != 0 };
        if loads_mxcsr {
            check_mxcsr(&area.bytes)?;
        } else {
            area.bytes[MXCSR..MXCSR + 4].copy_from_slice(&MXCSR_INITIAL.to_le_bytes());
        }
        let places = self.model.places(rfbm & states, compacted.then_some(layout));
        for (number, part, offset) in &places {
            let length = self.reachable_part(*number, part);
            let at = linear.wrapping_add(*offset as u64);
            self.read_bytes(at, &mut area.bytes[*offset..offset + length], self.privilege())?;
        }
        if !wide {
            narrow_pointers(&mut area.bytes);
        }
        self.restore_legacy(&area, rfbm, states, loads_mxcsr || compacted && rfbm & xcr0::SSE != 0);
        self.initialize_components(rfbm & !states);
        for (number, part, offset) in places {
            self.restore_component(&area, number, &part, offset);
        }
        Ok(())
    }

    /// The header's reserved bits (SDM vol. 1, 13.8.1, 13.8.2, 13.12).
    fn check_header(&self, area: &Area, states: u64, layout: u64, supervisor: bool) -> Result<(), Trap> {
        let compacted = layout & COMPACTED != 0;
        let allowed = self.state.xcr0;
        let reserved_bytes = &area.bytes[HEADER + 16..EXTENDED];
        let valid = if compacted {
            let components = layout & !COMPACTED;
            self.model.has(Feature::Xsavec) && components & !allowed == 0 && states & !components == 0
        } else {
            !supervisor && layout == 0 && states & !allowed == 0
        };
        let clear = if compacted { reserved_bytes } else { &reserved_bytes[..8] };
        if valid && clear.iter().all(|&byte| byte == 0) { Ok(()) } else { refuse() }
    }

    fn restore_legacy(&mut self, area: &Area, rfbm: u64, states: u64, mxcsr: bool) {
        let reachable = self.reachable(XMM_SIZE);
        let extended = &mut self.state.extended;
        extended.materialize_legacy();
        let mut in_use = extended.in_use();
        if rfbm & states & xcr0::X87 != 0 {
            extended.bytes[..MXCSR].copy_from_slice(&area.bytes[..MXCSR]);
            extended.bytes[MXCSR + 8..XMM].copy_from_slice(&area.bytes[MXCSR + 8..XMM]);
            extended.settle_x87();
        } else if rfbm & xcr0::X87 != 0 {
            extended.initialize_x87();
            in_use &= !xcr0::X87;
        }
        if mxcsr {
            extended.bytes[MXCSR..MXCSR + 4].copy_from_slice(&area.bytes[MXCSR..MXCSR + 4]);
        }
        if rfbm & states & xcr0::SSE != 0 {
            extended.bytes[XMM..XMM + reachable].copy_from_slice(&area.bytes[XMM..XMM + reachable]);
        } else if rfbm & xcr0::SSE != 0 {
            extended.bytes[XMM..XMM + reachable].fill(0);
            if reachable == XMM_SIZE {
                in_use &= !xcr0::SSE;
            }
        }
        extended.set_in_use(in_use);
    }

    /// Bring components of the extended region into their initial configuration.
    fn initialize_components(&mut self, components: u64) {
        if components & xcr0::PKRU != 0 {
            self.set_pkru(0);
        }
        for number in COMPONENTS.filter(|number| components >> number & 1 != 0) {
            let Some(part) = self.model.component(number).filter(|_| 1 << number != xcr0::PKRU) else {
                continue;
            };
            let length = self.reachable_part(number, &part);
            let extended = &mut self.state.extended;
            extended.bytes[part.offset..part.offset + length].fill(0);
            if length == part.size {
                extended.set_in_use(extended.in_use() & !(1 << number));
            }
        }
    }

    fn restore_component(&mut self, area: &Area, number: u32, part: &Component, offset: usize) {
        if 1 << number == xcr0::PKRU {
            self.set_pkru(word(&area.bytes, offset) as u32);
            return;
        }
        let length = self.reachable_part(number, part);
        let extended = &mut self.state.extended;
        if extended.in_use() >> number & 1 == 0 {
            extended.bytes[part.offset..part.offset + part.size].fill(0);
        }
        extended.bytes[part.offset..part.offset + length]
            .copy_from_slice(&area.bytes[offset..offset + length]);
        extended.set_in_use(extended.in_use() | 1 << number);
    }
}
