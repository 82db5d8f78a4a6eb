//! Which components of extended state are in use (XINUSE, SDM vol. 1, 13.6): those whose value is not the initial one.
//!
//! The image's own XSTATE_BV says which components have a value at all. Both tiers may leave a component marked that is
//! back in its initial configuration; the guest must not see which of them was at work, nor when.

use crate::core::Core;
use crate::cpuid::CpuModel;
use crate::extended::{MXCSR, XMM, XMM_SIZE};
use crate::state::ExtendedState;
use gasang_x86::control::xcr0;

impl CpuModel {
    /// The components of `image` that are not in their initial configuration; PKRU is not kept there.
    pub(crate) fn in_use(&self, image: &ExtendedState) -> u64 {
        let marked = image.in_use() & !xcr0::PKRU;
        let mut in_use = marked & !(xcr0::X87 | xcr0::SSE);
        if marked & xcr0::X87 != 0 && !x87_is_initial(image) {
            in_use |= xcr0::X87;
        }
        if marked & xcr0::SSE != 0 && !is_zero(&image.bytes[XMM..XMM + XMM_SIZE]) {
            in_use |= xcr0::SSE;
        }
        for (number, part, offset) in self.places(in_use, None) {
            if is_zero(&image.bytes[offset..offset + part.size]) {
                in_use &= !(1 << number);
            }
        }
        in_use
    }

    /// The same registers in the one image for them: what is not in use has its initial value, and is marked so.
    pub fn settled(&self, image: &ExtendedState) -> ExtendedState {
        let in_use = self.in_use(image);
        let mut settled = ExtendedState::initial();
        settled.bytes[MXCSR..MXCSR + 4].copy_from_slice(&image.bytes[MXCSR..MXCSR + 4]);
        let mut keep =
            |from: usize, to: usize| settled.bytes[from..to].copy_from_slice(&image.bytes[from..to]);
        if in_use & xcr0::X87 != 0 {
            keep(0, MXCSR);
            keep(MXCSR + 8, XMM);
        }
        if in_use & xcr0::SSE != 0 {
            keep(XMM, XMM + XMM_SIZE);
        }
        for (_, part, offset) in self.places(in_use, None) {
            keep(offset, offset + part.size);
        }
        settled.set_in_use(in_use);
        settled
    }
}

impl Core<'_> {
    /// Which components are not in their initial configuration.
    pub(crate) fn components_in_use(&self) -> u64 {
        self.model.in_use(&self.state.extended) | if self.state.pkru != 0 { xcr0::PKRU } else { 0 }
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

fn x87_is_initial(image: &ExtendedState) -> bool {
    let initial = ExtendedState::initial();
    image.bytes[..MXCSR] == initial.bytes[..MXCSR] && is_zero(&image.bytes[MXCSR + 8..XMM])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_in_use_by_its_value() {
        let model = CpuModel::parse("max").unwrap();
        let mut image = ExtendedState::initial();
        image.set_in_use(xcr0::X87 | xcr0::SSE | xcr0::AVX);
        assert_eq!(model.in_use(&image), 0);
        image.bytes[XMM + 255] = 1;
        assert_eq!(model.in_use(&image), xcr0::SSE);
        image.bytes[XMM - 7] = 1;
        assert_eq!(model.in_use(&image), xcr0::X87 | xcr0::SSE);
        image.set_in_use(xcr0::SSE);
        assert_eq!(model.in_use(&image), xcr0::SSE, "of x87 there is only what an XRSTOR left behind");
    }

    #[test]
    fn the_same_registers_settle_to_the_same_image() {
        let model = CpuModel::parse("max").unwrap();
        let (mut one, mut other) = (ExtendedState::initial(), ExtendedState::initial());
        one.set_in_use(xcr0::X87 | xcr0::SSE);
        other.bytes[32..XMM].fill(0x55);
        for image in [&mut one, &mut other] {
            image.set_mxcsr(0x1fa0);
            image.bytes[XMM] = 7;
        }
        assert_eq!(model.settled(&one).bytes, model.settled(&other).bytes);
        assert_eq!(model.settled(&one).in_use(), xcr0::SSE);
        assert_eq!(model.settled(&one).mxcsr(), 0x1fa0);
    }
}
