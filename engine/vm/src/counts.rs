//! What a processor counts.

use crate::exit::Exit;
use crate::tracepoints::ExitCounts;
use crate::vmx_tables::snake_case;
use gasang_cpu::TransitionCounts;
use gasang_translate::Statistics;
use std::borrow::Cow;

/// Counters since creation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    pub(crate) instructions: u64,
    /// What `run` returned, by kind.
    pub(crate) returned: [u64; Exit::KINDS],
    /// What left the guest.
    pub(crate) exits: ExitCounts,
    pub(crate) tlb_refills: u64,
    pub(crate) tlb_flushes: u64,
    pub(crate) tlb_page_flushes: u64,
    pub(crate) address_space_switches: u64,
    /// VM entries and VM exits.
    pub(crate) vmx: TransitionCounts,
    /// The translator's own, if there is one.
    pub(crate) translator: Option<Statistics>,
}

impl Counts {
    /// All of them, by name; of the reasons of VM exits, those that occurred.
    pub(crate) fn list(&self) -> Vec<(Cow<'static, str>, u64)> {
        let own = [
            ("instructions", self.instructions),
            ("tlb_refills", self.tlb_refills),
            ("tlb_flushes", self.tlb_flushes),
            ("tlb_page_flushes", self.tlb_page_flushes),
            ("address_space_switches", self.address_space_switches),
            ("vm_entries", self.vmx.entries),
            ("vm_exits", self.vmx.all_exits()),
        ];
        let returned = Exit::NAMES.into_iter().zip(self.returned);
        let engine = own.into_iter().chain(self.exits.list()).chain(returned);
        let fixed = engine.chain(self.translator.iter().flat_map(of_translator));
        let reasons = self.vmx.by_reason().map(|(reason, count)| {
            let name = snake_case(reason.identifier());
            (Cow::Owned(format!("vm_exits_{name}")), count)
        });
        fixed.map(|(name, count)| (Cow::Borrowed(name), count)).chain(reasons).collect()
    }
}

fn of_translator(counts: &Statistics) -> [(&'static str, u64); 14] {
    [
        ("blocks_translated", counts.blocks),
        ("superblocks", counts.superblocks),
        ("instructions_translated", counts.translated),
        ("translation_nanoseconds", counts.translation_time),
        ("blocks_invalidated", counts.invalidated),
        ("code_cache_flushes", counts.cache_flushes),
        ("instructions_interpreted", counts.interpreted),
        ("instructions_direct", counts.direct),
        ("code_entries", counts.entries),
        ("code_tlb_misses", counts.misses),
        ("region_searches", counts.regions),
        ("code_extended_exits", counts.extended),
        ("code_lookups", counts.lookups),
        ("code_faults", counts.faults),
    ]
}
