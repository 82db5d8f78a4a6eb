//! The processor model: which features there are, and what CPUID says of them.
//!
//! The model calls itself a GenuineIntel of family 6, model 0x36. The vendor, because Intel's leaves 0x15 and 0x16 tell
//! the frequencies of TSC and local APIC, so that nothing needs calibrating. The model, because Linux knows that
//! in-order processor as one that never speculates: no page-table isolation, no retpolines, no microcode, no errata.

mod features;
mod layout;
mod leaves;

pub use features::Feature;
pub use layout::Component;
pub(crate) use leaves::SIGNATURE;

use crate::control_registers::cr4_allowed;
use features::{Level, Provider, Row, TABLE, Word};
use gasang_x86::control::xcr0;
use layout::StateLayout;
use std::arch::x86_64::__cpuid_count;

/// Frequency of the local APIC's timer before division, which CPUID reports as the core crystal clock.
const APIC_BUS_HZ: u64 = 1_000_000_000;

/// What CPUID says and what follows from it.
#[derive(Debug, Clone)]
pub struct CpuModel {
    /// One bit for each `Feature`.
    features: u128,
    layout: StateLayout,
    /// The bits of CR4 that it has: VM entries ask for them.
    cr4: u64,
}

fn row(feature: Feature) -> &'static Row {
    &TABLE[feature as usize]
}

fn bit(feature: Feature) -> u128 {
    1 << feature as u32
}

/// EAX, EBX, ECX, EDX of a leaf of the host's; all 0 if it has none.
fn host_leaf(leaf: u32, subleaf: u32) -> [u32; 4] {
    let highest = __cpuid_count(leaf & 0x8000_0000, 0).eax;
    if leaf > highest {
        return [0; 4];
    }
    let found = __cpuid_count(leaf, subleaf);
    [found.eax, found.ebx, found.ecx, found.edx]
}

/// The name of who made the host's processor, such as GenuineIntel.
pub fn host_vendor() -> [u8; 12] {
    let [_, ebx, ecx, edx] = host_leaf(0, 0);
    let mut name = [0; 12];
    for (place, register) in name.chunks_exact_mut(4).zip([ebx, edx, ecx]) {
        place.copy_from_slice(&register.to_le_bytes());
    }
    name
}

/// Whether the host's CPUID and operating system allow a feature that it must provide.
fn host_provides(row: &Row) -> bool {
    if row.provider == Provider::Engine {
        return true;
    }
    let name_of_extension_state = matches!(
        row.feature,
        Feature::Avx | Feature::Fma | Feature::F16c | Feature::Avx2 | Feature::Vaes | Feature::Vpclmulqdq
    );
    let operating_system = if row.name.starts_with("avx512") {
        std::arch::is_x86_feature_detected!("avx512f")
    } else if name_of_extension_state {
        std::arch::is_x86_feature_detected!("avx")
    } else {
        true
    };
    operating_system && row.word.of(host_leaf) >> row.bit & 1 != 0
}

/// Drop features whose needs are not met, until all that remain stand.
fn close(mut features: u128) -> u128 {
    loop {
        let kept = TABLE
            .iter()
            .filter(|row| features & bit(row.feature) != 0)
            .filter(|row| row.needs.iter().all(|&need| features & bit(need) != 0))
            .fold(0, |set, row| set | bit(row.feature));
        if kept == features {
            return kept;
        }
        features = kept;
    }
}

fn names<T>(items: &[T], name: impl Fn(&T) -> &'static str) -> String {
    items.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn find_feature(name: &str) -> Result<&'static Row, String> {
    TABLE.iter().find(|row| row.name == name).ok_or_else(|| {
        format!("unknown CPU feature '{name}'; the features are: {}", names(TABLE, |row| row.name))
    })
}

/// The features of a named model on this host.
fn model_features(name: &str) -> Result<u128, String> {
    let Some(&(level, _)) = Level::ALL.iter().find(|(_, known)| *known == name) else {
        return Err(format!(
            "unknown CPU model '{name}'; the models are: {}",
            names(&Level::ALL, |(_, name)| name)
        ));
    };
    let wanted = TABLE.iter().filter(|row| row.level <= level);
    if level == Level::Max {
        // Only T0 executes AVX-512: a guest that found it would copy its memory with it, slowly.
        let offered = wanted.filter(|row| host_provides(row) && row.feature != Feature::Avx512f);
        return Ok(close(offered.fold(0, |set, row| set | bit(row.feature))));
    }
    let missing: Vec<&str> = wanted.clone().filter(|row| !host_provides(row)).map(|row| row.name).collect();
    if !missing.is_empty() {
        return Err(format!("CPU model '{name}' needs {}, which this host lacks", missing.join(", ")));
    }
    Ok(wanted.fold(0, |set, row| set | bit(row.feature)))
}

/// Add a feature and what it needs.
fn add(features: u128, row: &Row) -> Result<u128, String> {
    if !host_provides(row) {
        return Err(format!("CPU feature '{}' needs a host processor that has it", row.name));
    }
    row.needs.iter().try_fold(features | bit(row.feature), |set, &need| add(set, self::row(need)))
}

impl CpuModel {
    /// The model that `spec`, "MODEL[,+feature,-feature]...", describes. Adding a feature adds what it needs, removing
    /// one removes what needs it.
    ///
    /// # Errors
    /// A message that names what is not known, or what this host cannot do, and the valid names.
    pub fn parse(spec: &str) -> Result<CpuModel, String> {
        let mut parts = spec.split(',');
        let mut features = model_features(parts.next().unwrap_or_default())?;
        for part in parts {
            if let Some(name) = part.strip_prefix('+') {
                features = add(features, find_feature(name)?)?;
            } else if let Some(name) = part.strip_prefix('-') {
                features = close(features & !bit(find_feature(name)?.feature));
            } else {
                return Err(format!("'{part}' in CPU '{spec}' is neither +FEATURE nor -FEATURE"));
            }
        }
        Ok(CpuModel::of(features))
    }

    fn of(features: u128) -> CpuModel {
        let cr4 = cr4_allowed(|feature| features & bit(feature) != 0);
        CpuModel { features, layout: StateLayout::of_host(), cr4 }
    }

    /// The model without the features that `keeps` refuses, and what needs them. It is told of each feature, and whether
    /// another processor has it: `leaf` gives EAX, EBX, ECX, EDX of a leaf and subleaf of that one's CPUID.
    pub fn restricted(
        &self,
        leaf: impl Fn(u32, u32) -> [u32; 4],
        keeps: impl Fn(Feature, bool) -> bool,
    ) -> CpuModel {
        let kept = TABLE
            .iter()
            .filter(|row| self.has(row.feature))
            .filter(|row| keeps(row.feature, row.word.of(&leaf) >> row.bit & 1 != 0));
        CpuModel::of(close(kept.fold(0, |set, row| set | bit(row.feature))))
    }

    /// The bits of CR4 that it has.
    #[inline]
    pub fn cr4_allowed(&self) -> u64 {
        self.cr4
    }

    /// Names of the models.
    pub fn models() -> Vec<&'static str> {
        Level::ALL.iter().map(|&(_, name)| name).collect()
    }

    /// Names of all features that a specification may add or remove.
    pub fn known_features() -> Vec<&'static str> {
        TABLE.iter().map(|row| row.name).collect()
    }

    /// Names of the features that this model has and that the processor on which it runs must have too: levels are made
    /// of these, the rest is what the engine has anyway.
    pub fn features_of_processor(&self) -> Vec<&'static str> {
        let of_processor = TABLE.iter().filter(|row| row.provider == Provider::Host && self.has(row.feature));
        of_processor.map(|row| row.name).collect()
    }

    /// Names of the features that this model has.
    pub fn features(&self) -> Vec<&'static str> {
        TABLE.iter().filter(|row| self.has(row.feature)).map(|row| row.name).collect()
    }

    /// Whether the model has `feature`.
    #[inline]
    pub fn has(&self, feature: Feature) -> bool {
        self.features & bit(feature) != 0
    }

    /// The state components that XSETBV may enable.
    pub fn xcr0_allowed(&self) -> u64 {
        if !self.has(Feature::Xsave) {
            return 0;
        }
        let mut allowed = xcr0::X87 | xcr0::SSE;
        for (feature, components) in
            [(Feature::Avx, xcr0::AVX), (Feature::Avx512f, xcr0::AVX512), (Feature::Pku, xcr0::PKRU)]
        {
            if self.has(feature) {
                allowed |= components;
            }
        }
        allowed
    }

    /// Where a state component (2 and up) lies in the standard format; None if there is no such component.
    #[inline]
    pub fn component(&self, number: u32) -> Option<Component> {
        self.layout.component(number)
    }

    /// Where the components in `set` lie in an image (number, component, offset): in the standard format, or in the
    /// compacted format that holds the components in `compacted`.
    pub(crate) fn places(&self, set: u64, compacted: Option<u64>) -> Vec<(u32, Component, usize)> {
        self.layout.places(set, compacted).collect()
    }

    /// The feature bits of one register of a leaf.
    fn word(&self, word: Word) -> u32 {
        TABLE
            .iter()
            .filter(|row| row.word == word && self.has(row.feature))
            .fold(0, |bits, row| bits | 1 << row.bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_features_and_no_bit_is_used_twice() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.feature as usize, index);
            let same = TABLE.iter().filter(|other| other.word == row.word && other.bit == row.bit);
            assert_eq!(same.count(), 1, "{}", row.name);
        }
        assert!(TABLE.len() <= 128);
    }

    #[test]
    fn every_named_model_is_closed_under_needs() {
        for (level, name) in Level::ALL {
            let features =
                TABLE.iter().filter(|row| row.level <= level).fold(0, |set, row| set | bit(row.feature));
            assert_eq!(close(features), features, "{name}");
        }
    }

    #[test]
    fn removing_a_feature_removes_what_needs_it() {
        let model = CpuModel::parse("max,-sse4_2").unwrap();
        assert!(!model.has(Feature::Avx) && !model.has(Feature::Avx2) && model.has(Feature::Sse41));
        assert_eq!(model.xcr0_allowed() & xcr0::AVX, 0);
    }

    #[test]
    fn adding_a_feature_adds_what_it_needs() {
        let model = CpuModel::parse("x86-64-v1,+pku").unwrap();
        assert!(model.has(Feature::Pku) && model.has(Feature::Xsave));
    }

    #[test]
    fn what_kvm_offers_is_hidden_with_kvm_or_the_hypervisor() {
        let offers = |spec: &str| {
            let features = CpuModel::parse(spec).unwrap().features();
            features.iter().filter(|name| name.starts_with("kvm")).count()
        };
        assert_eq!(offers("max"), 9);
        assert_eq!(offers("max,-kvmclock"), 7, "and its stable bit");
        assert_eq!(offers("max,-kvm"), 0);
        assert_eq!(offers("max,-hypervisor"), 0);
        assert_eq!(offers("max,-hypervisor,+kvm-pv-tlb-flush"), 3, "with what it needs");
    }

    #[test]
    fn unknown_names_are_refused_with_the_valid_ones() {
        assert!(CpuModel::parse("486").unwrap_err().contains("x86-64-v3"));
        assert!(CpuModel::parse("max,+mmxx").unwrap_err().contains("mmx, fxsr"));
        assert!(CpuModel::parse("max,avx").unwrap_err().contains("neither"));
        assert!(CpuModel::parse("").unwrap_err().contains("unknown CPU model"));
    }
}
