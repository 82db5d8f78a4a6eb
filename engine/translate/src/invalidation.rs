//! The code whose bytes are written is thrown away.

use crate::host_state;
use crate::site::Site;
use crate::translator::Translator;
use gasang_cpu::Core;

impl Translator {
    /// From now on writes to the page at `host` are told. Before its bytes are read: no write in between is lost.
    pub(crate) fn protect(&mut self, core: &mut Core<'_>, host: u64) {
        if self.protected.insert(host & !0xfff) {
            self.pages.protect(self.processor, core.tlb, host);
        }
    }

    /// A page without blocks may be written freely again.
    pub(crate) fn release(&mut self, core: &mut Core<'_>, host: u64) {
        if !self.blocks.has_page(host) && self.protected.remove(&(host & !0xfff)) {
            self.pages.release(self.processor, core.tlb, host);
        }
    }

    /// Between two instructions: deal with what others ask for, and throw away the blocks made from bytes that were
    /// written. True if anything was to be done, or may be for our caller.
    pub(crate) fn safepoint(&mut self, core: &mut Core<'_>) -> bool {
        let kicked = host_state::is_kicked(core.state);
        if kicked {
            host_state::clear_kick(core.state);
        }
        if !self.pages.waits(self.processor) {
            return kicked;
        }
        let written = self.pages.safepoint(self.processor, core.tlb);
        for &(host, length) in &written {
            let end = host + length;
            let mut at = host;
            while at < end {
                let next = (at | 0xfff) + 1;
                if !self.invalidate(core, at, next.min(end) - at) {
                    self.blocks.spare(at).into_iter().for_each(|number| self.discard(core, number));
                }
                at = next;
            }
        }
        if self.options.flush_on_write && !written.is_empty() {
            self.flush(core);
        }
        true
    }

    /// Throw away the blocks made from `length` bytes at `host`, within a page; whether there were any.
    pub(crate) fn invalidate(&mut self, core: &mut Core<'_>, host: u64, length: u64) -> bool {
        let gone = self.blocks.take_overlapping(host, length);
        let any = !gone.is_empty();
        self.release(core, host);
        for number in gone {
            self.statistics.invalidated += 1;
            let host = self.blocks.get(number).host;
            self.warmth.lose(host);
            self.heat.forget(host);
            self.unshared.remove(&host);
            self.bar(number);
        }
        any
    }

    /// Throw away a block although its bytes are as they were.
    pub(crate) fn discard(&mut self, core: &mut Core<'_>, number: u32) {
        self.blocks.take(&[number]);
        self.bar(number);
        for piece in self.blocks.get(number).pieces {
            self.release(core, piece.host);
        }
    }

    /// See that nobody enters a block any more.
    pub(crate) fn bar(&mut self, number: u32) {
        let block = self.blocks.get(number).clone();
        self.unlink(&block.incoming);
        let gone_host = self.cache.address(block.offset + block.entries.gone_host_flags);
        let gone_slot = self.cache.address(block.offset + block.entries.gone);
        let entries = block.entries;
        if entries.host_flags != entries.slot_flags {
            self.cache.patch_jump(block.offset + entries.host_flags, gone_host);
        }
        for entry in [entries.slot_flags, entries.page] {
            self.cache.patch_jump(block.offset + entry, gone_slot);
        }
    }

    /// Send the jumps at `sites`, linked to a block that is gone, back to the dispatcher, which links them anew.
    fn unlink(&mut self, sites: &[u32]) {
        for &site in sites {
            if let Site::Link { block, displacement, unlinked, .. } = self.sites[site as usize]
                && self.blocks.get(block).alive
            {
                self.cache.patch_relative(displacement, self.cache.address(unlinked));
            }
        }
    }

    /// Throw the whole cache away.
    pub(crate) fn flush(&mut self, core: &mut Core<'_>) {
        self.attribute_samples();
        self.keep_counts();
        self.statistics.cache_flushes += 1;
        self.blocks.clear();
        self.sites.clear();
        self.unshared.clear();
        self.faults.clear();
        self.cache.clear();
        core.tlb.clear_jumps();
    }
}
