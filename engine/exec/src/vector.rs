//! Vector registers and opmasks in the XSAVE image, for the instructions that access memory element by element.

use gasang_cpu::{Core, ExtendedState};
use gasang_x86::control::xcr0;

/// The widest vector register.
pub(crate) const WIDTH: usize = 64;

/// Numbers of the state components (SDM vol. 1, 13.4).
const AVX: u32 = xcr0::AVX.trailing_zeros();
const OPMASK: u32 = xcr0::OPMASK.trailing_zeros();
const ZMM_HI256: u32 = xcr0::ZMM_HI256.trailing_zeros();
const HI16_ZMM: u32 = xcr0::HI16_ZMM.trailing_zeros();
/// XMM0-XMM15 in the legacy region.
const XMM: usize = 160;
/// ST0-ST7 and MM0-MM7 in the legacy region.
const ST: usize = 32;

/// A piece of a register: which component keeps it, the component's place, and the piece's place in both.
struct Piece {
    component: u64,
    start: usize,
    end: usize,
    at: usize,
    in_register: std::ops::Range<usize>,
}

/// Where register `number` is kept; pieces that the host lacks are left out.
fn pieces(core: &Core<'_>, number: usize) -> Vec<Piece> {
    let low = number % 16;
    let layout: &[(u32, usize, usize)] =
        if number < 16 { &[(AVX, 16, 16), (ZMM_HI256, 32, 32)] } else { &[(HI16_ZMM, 0, 64)] };
    let mut pieces = Vec::with_capacity(3);
    if number < 16 {
        let at = XMM + 16 * low;
        pieces.push(Piece { component: xcr0::SSE, start: XMM, end: XMM + 256, at, in_register: 0..16 });
    }
    for &(component, first, size) in layout {
        if let Some(place) = core.model.component(component) {
            let (start, end) = (place.offset, place.offset + place.size);
            let at = start + size * low;
            pieces.push(Piece {
                component: 1 << component,
                start,
                end,
                at,
                in_register: first..first + size,
            });
        }
    }
    pieces
}

/// A component that becomes used starts from its initial configuration, all zero.
fn begin_use(image: &mut ExtendedState, component: u64, start: usize, end: usize) {
    let in_use = image.in_use();
    if in_use & component == 0 {
        image.bytes[start..end].fill(0);
        image.set_in_use(in_use | component);
    }
}

/// The whole of a vector register.
pub(crate) fn read(core: &Core<'_>, number: usize) -> [u8; WIDTH] {
    let image = &core.state.extended;
    let mut value = [0; WIDTH];
    for piece in pieces(core, number) {
        if image.in_use() & piece.component != 0 {
            let size = piece.in_register.len();
            value[piece.in_register].copy_from_slice(&image.bytes[piece.at..piece.at + size]);
        }
    }
    value
}

/// Write the whole of a vector register.
pub(crate) fn write(core: &mut Core<'_>, number: usize, value: &[u8; WIDTH]) {
    for piece in pieces(core, number) {
        let part = &value[piece.in_register];
        let image = &mut core.state.extended;
        if image.in_use() & piece.component != 0 || part.iter().any(|&byte| byte != 0) {
            begin_use(image, piece.component, piece.start, piece.end);
            image.bytes[piece.at..piece.at + part.len()].copy_from_slice(part);
        }
    }
}

/// Opmask register `number`.
pub(crate) fn read_opmask(core: &Core<'_>, number: usize) -> u64 {
    let image = &core.state.extended;
    let Some(place) = core.model.component(OPMASK).filter(|_| image.in_use() & xcr0::OPMASK != 0) else {
        return 0;
    };
    let at = place.offset + 8 * number;
    image.bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes)
}

/// Clear an opmask register.
pub(crate) fn write_opmask(core: &mut Core<'_>, number: usize, value: u64) {
    if let Some(place) = core.model.component(OPMASK) {
        let image = &mut core.state.extended;
        begin_use(image, xcr0::OPMASK, place.offset, place.offset + place.size);
        let at = place.offset + 8 * number;
        image.bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
}

/// MMX register `number`: the image has the registers in the order of the x87 stack.
pub(crate) fn read_mmx(core: &Core<'_>, number: usize) -> [u8; 8] {
    let image = &core.state.extended;
    let mut value = [0; 8];
    if image.in_use() & xcr0::X87 != 0 {
        let top = usize::from(image.bytes[3] >> 3 & 7);
        let at = ST + 16 * (number.wrapping_sub(top) & 7);
        value.copy_from_slice(&image.bytes[at..at + 8]);
    }
    value
}

/// What every MMX instruction does to x87: the top of the stack becomes register 0, and no register is empty (SDM
/// vol. 1, 9.5).
pub(crate) fn enter_mmx(core: &mut Core<'_>) {
    let image = &mut core.state.extended;
    if image.in_use() & xcr0::X87 == 0 {
        let initial = ExtendedState::initial();
        image.bytes[..24].copy_from_slice(&initial.bytes[..24]);
        image.bytes[ST..ST + 128].fill(0);
        image.set_in_use(image.in_use() | xcr0::X87);
    }
    let top = usize::from(image.bytes[3] >> 3 & 7);
    image.bytes[ST..ST + 128].rotate_right(16 * top);
    image.bytes[3] &= !0x38;
    image.bytes[4] = 0xff;
}

/// Element `index` of `size` (1, 2, 4, 8) bytes, zero-extended.
pub(crate) fn element(value: &[u8], index: usize, size: usize) -> u64 {
    let mut bytes = [0; 8];
    if let Some(part) = value.get(index * size..(index + 1) * size) {
        bytes[..size].copy_from_slice(part);
    }
    u64::from_le_bytes(bytes)
}

/// Whether the sign bit of element `index` is set.
pub(crate) fn is_negative(value: &[u8], index: usize, size: usize) -> bool {
    element(value, index, size) >> (size * 8 - 1) & 1 != 0
}
