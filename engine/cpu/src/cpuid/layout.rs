//! The layout of XSAVE's standard format (SDM vol. 1, 13.4).

use gasang_x86::control::xcr0;
use std::arch::x86_64::__cpuid_count;

/// One state component of the extended region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Component {
    /// Offset in the standard format.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
    /// In the compacted format it starts at a multiple of 64.
    pub aligned: bool,
}

/// Legacy region and header.
const BASE_SIZE: usize = 576;
/// PKRU is not in the image that the host restores, so it lies where no other component does.
const PKRU: Component = Component { offset: 2688, size: 8, aligned: false };
const PKRU_NUMBER: u32 = xcr0::PKRU.trailing_zeros();

/// Where each component lies: the host's offsets, since the state is kept in the host's image.
#[derive(Debug, Clone)]
pub(super) struct StateLayout {
    components: [Option<Component>; 10],
}

impl StateLayout {
    pub(super) fn of_host() -> StateLayout {
        let mut layout = StateLayout { components: [None; 10] };
        for number in [2, 5, 6, 7] {
            let leaf = __cpuid_count(0xd, number);
            let (offset, size) = (leaf.ebx as usize, leaf.eax as usize);
            if size != 0 && offset + size <= PKRU.offset {
                let part = Component { offset, size, aligned: leaf.ecx & 2 != 0 };
                layout.components[number as usize] = Some(part);
            }
        }
        layout.components[PKRU_NUMBER as usize] = Some(PKRU);
        layout
    }

    #[inline]
    pub(super) fn component(&self, number: u32) -> Option<Component> {
        self.components.get(number as usize).copied().flatten()
    }

    /// Where the components in `set` lie: (number, component, offset), ascending. In the compacted format, which holds
    /// the components in `compacted`, they follow each other.
    pub(super) fn places(
        &self,
        set: u64,
        compacted: Option<u64>,
    ) -> impl Iterator<Item = (u32, Component, usize)> + '_ {
        let held = compacted.unwrap_or(set);
        let parts = (0..64).filter(move |number| held >> number & 1 != 0);
        let placed = parts.filter_map(|number| Some((number, self.component(number)?)));
        let mut end = BASE_SIZE;
        let located = placed.map(move |(number, part)| {
            let start = if part.aligned { end.next_multiple_of(64) } else { end };
            end = start + part.size;
            (number, part, if compacted.is_some() { start } else { part.offset })
        });
        located.filter(move |(number, ..)| set >> number & 1 != 0)
    }

    /// Size of the standard format with `components`.
    pub(super) fn standard_size(&self, components: u64) -> usize {
        self.places(components, None).map(|(_, part, offset)| offset + part.size).fold(BASE_SIZE, usize::max)
    }

    /// Size of the compacted format with `components`.
    pub(super) fn compacted_size(&self, components: u64) -> usize {
        let places = self.places(components, Some(components));
        places.map(|(_, part, offset)| offset + part.size).fold(BASE_SIZE, usize::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_do_not_overlap() {
        let layout = StateLayout::of_host();
        let mut used: Vec<Component> = layout.places(!0, None).map(|(_, part, _)| part).collect();
        used.sort_by_key(|component| component.offset);
        assert!(used.windows(2).all(|pair| pair[0].offset + pair[0].size <= pair[1].offset));
        assert!(used.iter().all(|component| component.offset >= BASE_SIZE));
    }

    #[test]
    fn pkru_follows_the_header_in_the_compacted_format() {
        let layout = StateLayout::of_host();
        assert_eq!(layout.compacted_size(xcr0::X87 | xcr0::PKRU), BASE_SIZE + 8);
        assert_eq!(layout.standard_size(xcr0::X87 | xcr0::PKRU), 2696);
    }

    #[test]
    fn aligned_components_start_at_multiples_of_64_in_the_compacted_format() {
        let mut layout = StateLayout { components: [None; 10] };
        layout.components[5] = Some(Component { offset: 832, size: 8, aligned: false });
        layout.components[6] = Some(Component { offset: 896, size: 512, aligned: true });
        assert_eq!(layout.compacted_size(1 << 5 | 1 << 6), 640 + 512);
        layout.components[6] = Some(Component { offset: 896, size: 512, aligned: false });
        assert_eq!(layout.compacted_size(1 << 5 | 1 << 6), 584 + 512);
    }
}
