//! The leaves of CPUID (SDM vol. 2, CPUID).

use super::features::Word;
use super::{APIC_BUS_HZ, CpuModel, Feature};
use crate::paging::PHYSICAL_ADDRESS_BITS;
use crate::state::VcpuState;
use gasang_x86::control::cr4;
use gasang_x86::paravirtual;

const HIGHEST_LEAF: u32 = 0x16;
const HIGHEST_HYPERVISOR_LEAF: u32 = 0x4000_0010;
const SIGNATURE_OF_OURS: &[u8; 12] = b"gasanggasang";
/// Bit of leaf 0x40000001 for the clock by the older MSR numbers; offered together with the newer ones.
const KVM_CLOCK_OLD: u32 = 1 << 0;
const HIGHEST_EXTENDED_LEAF: u32 = 0x8000_0008;
/// Family 6, model 0x36, stepping 1.
pub(crate) const SIGNATURE: u32 = 0x0003_0661;
const BRAND: &[u8; 48] = b"gasang virtual processor\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const LINE_SIZE: u32 = 64;

/// What a leaf may depend on besides the model.
struct Processor<'a> {
    state: &'a VcpuState,
    apic_id: u32,
    cpus: u32,
    tsc_hz: u64,
}

fn text(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|part| part.try_into().ok());
    u32::from_le_bytes(word.unwrap_or_default())
}

/// Bits of an APIC ID that tell `cpus` processors apart.
fn id_bits(cpus: u32) -> u32 {
    cpus.max(1).next_power_of_two().trailing_zeros()
}

/// Deterministic cache parameters (leaf 4): L1 data, L1 instruction, L2, and an L3 that all processors share.
fn cache(subleaf: u32, cpus: u32) -> [u32; 4] {
    let (kind, level, ways, sets, sharing) = match subleaf {
        0 => (1, 1, 8, 64, 1),
        1 => (2, 1, 8, 64, 1),
        2 => (3, 2, 8, 1024, 1),
        3 => (3, 3, 16, 16384, cpus.max(1).next_power_of_two()),
        _ => return [0; 4],
    };
    let cores = cpus.max(1).next_power_of_two();
    let self_initializing = 1 << 8;
    [
        kind | level << 5 | self_initializing | (sharing - 1).min(0xfff) << 14 | (cores - 1).min(0x3f) << 26,
        (ways - 1) << 22 | (LINE_SIZE - 1),
        sets - 1,
        0,
    ]
}

/// Extended topology (leaf 0xb): one thread a core, one package.
fn topology(subleaf: u32, processor: &Processor<'_>) -> [u32; 4] {
    let (shift, count, kind) = match subleaf {
        0 => (0, 1, 1),
        1 => (id_bits(processor.cpus), processor.cpus, 2),
        _ => (0, 0, 0),
    };
    [shift, count, kind << 8 | subleaf & 0xff, processor.apic_id]
}

impl CpuModel {
    /// CPUID: EAX, EBX, ECX, EDX. `tsc_hz` is reported exactly if it is a multiple of 1 MHz.
    pub fn cpuid(
        &self,
        leaf: u32,
        subleaf: u32,
        state: &VcpuState,
        apic_id: u32,
        cpus: u32,
        tsc_hz: u64,
    ) -> [u32; 4] {
        let processor = Processor { state, apic_id, cpus, tsc_hz };
        match leaf >> 28 {
            0x0 => self.basic_leaf(leaf, subleaf, &processor),
            0x4 => self.hypervisor_leaf(leaf, &processor),
            0x8 => self.extended_leaf(leaf, &processor),
            _ => [0; 4],
        }
    }

    fn basic_leaf(&self, leaf: u32, subleaf: u32, processor: &Processor<'_>) -> [u32; 4] {
        let tsc_mhz = (processor.tsc_hz / 1_000_000) as u32;
        match leaf {
            0x0 => {
                let vendor = b"GenuineIntel";
                [HIGHEST_LEAF, text(vendor, 0), text(vendor, 8), text(vendor, 4)]
            }
            0x1 => self.version_leaf(processor),
            // Caches: see leaf 4. TLBs: not told.
            0x2 => [0x00ff_ff01, 0, 0, 0],
            0x4 => cache(subleaf, processor.cpus),
            0x6 => [self.word(Word::Leaf6Eax), 0, 0, 0],
            0x7 if subleaf == 0 => {
                let mut ecx = self.word(Word::Leaf7Ecx);
                if processor.state.cr4 & cr4::PKE != 0 {
                    ecx |= 1 << 4;
                }
                [0, self.word(Word::Leaf7Ebx), ecx, self.word(Word::Leaf7Edx)]
            }
            0xb => topology(subleaf, processor),
            0xd => self.state_leaf(subleaf, processor.state),
            // TSC frequency = crystal * EBX / EAX. Linux multiplies in 32 bits, which MHz over 1000 fits.
            0x15 => [1000, tsc_mhz, APIC_BUS_HZ as u32, 0],
            0x16 => [tsc_mhz, tsc_mhz, (APIC_BUS_HZ / 1_000_000) as u32, 0],
            _ => [0; 4],
        }
    }

    fn version_leaf(&self, processor: &Processor<'_>) -> [u32; 4] {
        let mut ecx = self.word(Word::Leaf1Ecx);
        if processor.state.cr4 & cr4::OSXSAVE != 0 {
            ecx |= 1 << 27;
        }
        let mut edx = self.word(Word::Leaf1Edx);
        if processor.cpus > 1 {
            // More than one APIC ID in the package.
            edx |= 1 << 28;
        }
        let count = processor.cpus.max(1).next_power_of_two().min(255);
        let ebx = (processor.apic_id & 0xff) << 24 | count << 16 | LINE_SIZE / 8 << 8;
        [SIGNATURE, ebx, ecx, edx]
    }

    /// XSAVE's state components (leaf 0xd).
    fn state_leaf(&self, subleaf: u32, state: &VcpuState) -> [u32; 4] {
        let allowed = self.xcr0_allowed();
        if allowed == 0 {
            return [0; 4];
        }
        match subleaf {
            0 => {
                let size = |components| self.layout.standard_size(components) as u32;
                [allowed as u32, size(state.xcr0), size(allowed), (allowed >> 32) as u32]
            }
            1 => {
                let enabled = state.xcr0 | state.msr.xss;
                [self.word(Word::LeafDEax), self.layout.compacted_size(enabled) as u32, 0, 0]
            }
            2..=63 if allowed >> subleaf & 1 != 0 => match self.component(subleaf) {
                Some(part) => [part.size as u32, part.offset as u32, u32::from(part.aligned) << 1, 0],
                None => [0; 4],
            },
            _ => [0; 4],
        }
    }

    fn hypervisor_leaf(&self, leaf: u32, processor: &Processor<'_>) -> [u32; 4] {
        if !self.has(Feature::Hypervisor) {
            return [0; 4];
        }
        let kvm = self.has(Feature::Kvm);
        let signature = |highest, bytes: &[u8; 12]| [highest, text(bytes, 0), text(bytes, 4), text(bytes, 8)];
        match leaf {
            0x4000_0000 if kvm => signature(HIGHEST_HYPERVISOR_LEAF, paravirtual::SIGNATURE),
            0x4000_0000 => signature(HIGHEST_HYPERVISOR_LEAF, SIGNATURE_OF_OURS),
            // No hints (EDX): processors take turns on the host's.
            0x4000_0001 if kvm => {
                let old = if self.has(Feature::KvmClock) { KVM_CLOCK_OLD } else { 0 };
                [self.word(Word::Kvm1Eax) | old, 0, 0, 0]
            }
            // Where a second hypervisor's leaves are looked for.
            0x4000_0100 if kvm => signature(0x4000_0100, SIGNATURE_OF_OURS),
            0x4000_0010 => [(processor.tsc_hz / 1000) as u32, (APIC_BUS_HZ / 1000) as u32, 0, 0],
            _ => [0; 4],
        }
    }

    fn extended_leaf(&self, leaf: u32, processor: &Processor<'_>) -> [u32; 4] {
        match leaf {
            0x8000_0000 => [HIGHEST_EXTENDED_LEAF, 0, 0, 0],
            0x8000_0001 => {
                let mut edx = self.word(Word::Extended1Edx);
                if !processor.state.in_64bit_mode() {
                    // Intel's SYSCALL exists in 64-bit mode only, and CPUID says so.
                    edx &= !(1 << 11);
                }
                [0, 0, self.word(Word::Extended1Ecx), edx]
            }
            0x8000_0002..=0x8000_0004 => {
                let at = (leaf - 0x8000_0002) as usize * 16;
                [text(BRAND, at), text(BRAND, at + 4), text(BRAND, at + 8), text(BRAND, at + 12)]
            }
            // L2: 512 KiB, 8 ways.
            0x8000_0006 => [0, 0, 512 << 16 | 6 << 12 | LINE_SIZE, 0],
            0x8000_0007 => [0, 0, 0, self.word(Word::Extended7Edx)],
            0x8000_0008 => [48 << 8 | PHYSICAL_ADDRESS_BITS, 0, 0, 0],
            _ => [0; 4],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gasang_x86::control::xcr0;

    fn leaf(model: &CpuModel, leaf: u32, subleaf: u32, state: &VcpuState) -> [u32; 4] {
        model.cpuid(leaf, subleaf, state, 1, 2, 2_500_000_000)
    }

    #[test]
    fn osxsave_and_ospke_follow_cr4() {
        let model = CpuModel::parse("max").unwrap();
        let mut state = VcpuState::reset();
        assert_eq!(leaf(&model, 1, 0, &state)[2] >> 27 & 1, 0);
        state.cr4 = cr4::OSXSAVE | cr4::PKE;
        assert_eq!(leaf(&model, 1, 0, &state)[2] >> 27 & 1, 1);
        assert_eq!(leaf(&model, 7, 0, &state)[2] >> 4 & 1, 1);
    }

    #[test]
    fn the_tsc_frequency_is_told_exactly() {
        let model = CpuModel::parse("max").unwrap();
        let [denominator, numerator, crystal, _] = leaf(&model, 0x15, 0, &VcpuState::reset());
        let hz = u64::from(crystal) * u64::from(numerator) / u64::from(denominator);
        assert_eq!(hz, 2_500_000_000);
        assert!((crystal / 1000).checked_mul(numerator).is_some(), "as Linux computes it");
    }

    #[test]
    fn the_signatures_read_as_text() {
        let model = CpuModel::parse("x86-64-v1").unwrap();
        let [_, b, c, d] = leaf(&model, 0, 0, &VcpuState::reset());
        assert_eq!([b, d, c].map(u32::to_le_bytes).concat(), b"GenuineIntel");
        let hidden = CpuModel::parse("x86-64-v1,-kvm").unwrap();
        for (model, number, wanted) in [
            (&model, 0x4000_0000, b"KVMKVMKVM\0\0\0"),
            (&model, 0x4000_0100, b"gasanggasang"),
            (&hidden, 0x4000_0000, b"gasanggasang"),
        ] {
            let [_, b, c, d] = leaf(model, number, 0, &VcpuState::reset());
            assert_eq!([b, c, d].map(u32::to_le_bytes).concat(), wanted);
        }
        assert_eq!(leaf(&model, 0x4000_0001, 0, &VcpuState::reset()), [0x0100_0aeb, 0, 0, 0]);
        assert_eq!(leaf(&hidden, 0x4000_0001, 0, &VcpuState::reset()), [0; 4]);
    }

    #[test]
    fn state_sizes_follow_xcr0() {
        let model = CpuModel::parse("x86-64-v3").unwrap();
        let mut state = VcpuState::reset();
        assert_eq!(leaf(&model, 0xd, 0, &state)[1], 576);
        state.xcr0 |= xcr0::SSE | xcr0::AVX;
        assert_eq!(leaf(&model, 0xd, 0, &state)[1], 832);
        assert_eq!(leaf(&model, 0xd, 2, &state)[..2], [256, 576]);
    }

    #[test]
    fn leaves_beyond_the_highest_are_zero() {
        let model = CpuModel::parse("max").unwrap();
        for number in [HIGHEST_LEAF + 1, 0x2000_0000, 0x4000_0011, 0x8000_0009, !0] {
            assert_eq!(leaf(&model, number, 0, &VcpuState::reset()), [0; 4]);
        }
    }
}
