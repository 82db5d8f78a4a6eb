//! How blocks are found, and made if there are none.

use crate::blocks::{Block, Key, OtherPage, Piece, Variant};
use crate::code_log::CodeRecord;
use crate::decode::{BLOCK_LIMIT, Decoding, Operation, decode_block, leaves_page};
use crate::emit::{Origin, Tables, emit_block, next_page};
use crate::listing::list_block;
use crate::plan;
use crate::profile::Phase;
use crate::translator::{BLOCK_ROOM, Translator};
use gasang_cpu::{Access, Core, VcpuState};

/// Bytes of an instruction at most.
pub(crate) const LONGEST_INSTRUCTION: usize = 15;

/// Regions for reads, or for writes, that a superblock is thought to need: the next one's are others.
const REGIONS_OF_A_SUPERBLOCK: usize = 3;

/// What a block is made from.
pub(crate) struct Source {
    pub operations: Vec<Operation>,
    /// Where it goes on, unless its last instruction says so.
    pub next: u64,
    pub variant: Variant,
    pub pieces: [Piece; 2],
    pub other: Option<OtherPage>,
}

/// Where a block begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    pub key: Key,
    pub physical: u64,
}

impl Translator {
    /// The block at RIP; None if the code there is to be executed without one.
    pub(crate) fn find_or_translate(&mut self, core: &mut Core<'_>, variant: Variant) -> Option<u32> {
        let start = self.start(core, variant)?;
        if !self.is_warm(start.key) {
            return None;
        }
        if let Some(found) = self.blocks.find(start.key) {
            let Some(other) = self.blocks.get(found).other else { return Some(found) };
            if self.page(core, other.linear).is_some_and(|now| now.host == other.host) {
                return Some(found);
            }
            self.discard(core, found);
        }
        self.translating(start.key.linear, |translator| translator.translate(core, start, variant))
    }

    /// Whether code was met often enough for a translation; this time counts. What is translated without shared checks
    /// was hot already. Code that is not warm may have a block, if its counts were forgotten: it will be found later.
    fn is_warm(&mut self, key: Key) -> bool {
        let patience = if key.wide && !key.plain { self.options.patience } else { 0 };
        self.options.eager || self.warmth.meet(key.host, patience)
    }

    /// Do what counts as the translation of code at `linear`.
    pub(crate) fn translating<T>(&mut self, linear: u64, work: impl FnOnce(&mut Self) -> T) -> T {
        let started = std::time::Instant::now();
        let interrupted = self.profile().map(|profile| profile.begin(Phase::Translate, linear));
        let made = work(self);
        if let (Some(profile), Some(interrupted)) = (self.profile(), interrupted) {
            profile.resume(interrupted, linear);
        }
        self.statistics.translation_time += started.elapsed().as_nanos() as u64;
        made
    }

    /// What identifies the block at RIP; None if the instruction there cannot be fetched, or not from RAM.
    pub(crate) fn start(&self, core: &mut Core<'_>, variant: Variant) -> Option<Start> {
        let linear = core.state.rip;
        if !VcpuState::canonical(linear) {
            return None;
        }
        let place = core.translate(linear, Access::Execute, core.privilege()).ok()?;
        let (user, wide) = (core.state.cpl() == 3, core.state.in_64bit_mode());
        let (host, non_root) = (place.host?, core.state.vmx.non_root());
        let key = Key { linear, host, user, wide, non_root, plain: variant == Variant::Plain };
        Some(Start { key, physical: place.address })
    }

    /// Another page that code at RIP goes on in; None if fetching from there faults, or it is not RAM.
    pub(crate) fn page(&self, core: &mut Core<'_>, linear: u64) -> Option<OtherPage> {
        if !VcpuState::canonical(linear) || !core.state.in_64bit_mode() && linear > u64::from(u32::MAX) {
            return None;
        }
        let place = core.translate(linear, Access::Execute, core.privilege()).ok()?;
        Some(OtherPage { linear, host: place.host? & !0xfff, physical: place.address })
    }

    pub(crate) fn decoding(&self, core: &Core<'_>) -> Decoding {
        Decoding {
            bits: if core.state.in_64bit_mode() { 64 } else { 32 },
            user: core.state.cpl() == 3,
            non_root: core.state.vmx.non_root(),
            strict_flags: self.options.strict_flags,
        }
    }

    fn translate(&mut self, core: &mut Core<'_>, start: Start, variant: Variant) -> Option<u32> {
        if self.cache.left() < BLOCK_ROOM {
            self.flush(core);
        }
        self.protect(core, start.key.host);
        let decoded = self.decode(core, start.key, variant);
        let Some(source) = decoded.filter(|source| !source.operations.is_empty()) else {
            self.release(core, start.key.host);
            return None;
        };
        Some(self.place(core, start, &source))
    }

    /// The block at RIP as it is in memory. None if not all of an instruction can be fetched.
    fn decode(&mut self, core: &mut Core<'_>, key: Key, variant: Variant) -> Option<Source> {
        let Key { linear, host, .. } = key;
        let how = self.decoding(core);
        let mut bytes = [0; BLOCK_LIMIT * LONGEST_INSTRUCTION];
        let rest = ((4096 - (host & 0xfff)) as usize).min(bytes.len());
        self.memory.copy_out(host, &mut bytes[..rest]);
        if rest < LONGEST_INSTRUCTION && leaves_page(linear, &bytes[..rest], how, &self.classifier) {
            let other = self.page(core, next_page(linear))?;
            self.protect(core, other.host);
            let both = &mut bytes[..rest + LONGEST_INSTRUCTION];
            self.memory.copy_out(other.host, &mut both[rest..]);
            let operations = decode_block(linear, both, 1, how, &mut self.classifier);
            if operations.iter().all(|operation| !operation.instruction.is_invalid()) {
                let next = operations.last()?.instruction.next_ip();
                let first = Piece { host, size: rest as u64 };
                let second = Piece { host: other.host, size: next.wrapping_sub(other.linear) };
                return Some(Source {
                    operations,
                    next,
                    variant,
                    pieces: [first, second],
                    other: Some(other),
                });
            }
            self.release(core, other.host);
        }
        let operations = decode_block(linear, &bytes[..rest], BLOCK_LIMIT, how, &mut self.classifier);
        let next = operations.last().map_or(linear, |last| last.instruction.next_ip());
        let piece = Piece { host, size: next.wrapping_sub(linear) };
        Some(Source { operations, next, variant, pieces: [piece, Piece::default()], other: None })
    }

    /// Emit a block and keep it; there is room, and its pages are protected.
    pub(crate) fn place(&mut self, core: &Core<'_>, start: Start, source: &Source) -> u32 {
        let Key { linear, host, user, wide, non_root, .. } = start.key;
        let operations = &source.operations;
        let number = self.blocks.next_number();
        let origin = Origin {
            block: number,
            linear,
            physical: start.physical,
            other: source.other,
            next: source.next,
            user,
            wide,
            superblock: source.variant == Variant::Superblock,
            strict_flags: self.options.strict_flags,
            tlb_entries: core.tlb.entries() as u32,
            counted: self.counts.as_ref().is_some_and(|counts| counts.has(number)),
        };
        let offset = self.cache.next();
        self.assembler.restart(self.cache.address(offset));
        let mut tables = Tables { sites: &mut self.sites, faults: &mut self.faults, offset };
        let alone = match source.variant {
            Variant::Block => self.unshared.contains(&host),
            Variant::Superblock => false,
            Variant::Plain => true,
        };
        let plan = if !wide || alone {
            plan::alone(operations)
        } else if origin.superblock {
            self.first_region += REGIONS_OF_A_SUPERBLOCK;
            let first_region = (self.options.regions && user).then_some(self.first_region);
            plan::share_all(operations, &mut self.classifier.info, first_region)
        } else {
            plan::share_stack(operations)
        };
        let (assembler, info) = (&mut self.assembler, &mut self.classifier.info);
        let entries = emit_block(assembler, &self.exits, &mut tables, origin, operations, &plan, info);
        self.cache.place(self.assembler.code());
        self.blocks.insert(Block {
            linear,
            host,
            pieces: source.pieces,
            other: source.other,
            variant: source.variant,
            instructions: operations.len() as u32,
            user,
            wide,
            non_root,
            offset,
            entries,
            incoming: Vec::new(),
            crossings: 0,
            alive: true,
        });
        self.statistics.blocks += 1;
        self.statistics.translated += operations.len() as u64;
        self.note(&origin, host, operations, offset);
        number
    }

    /// Tell those who asked of a block just made.
    fn note(&mut self, origin: &Origin, host: u64, operations: &[Operation], offset: u32) {
        if let Some(log) = &self.log {
            log.add(CodeRecord {
                host: self.cache.address(offset),
                size: self.cache.next() - offset,
                linear: origin.linear,
                instructions: operations.len() as u32,
                user: origin.user,
            });
        }
        if self.options.trace {
            let guest: Vec<(u64, Vec<u8>)> =
                operations.iter().map(|operation| self.bytes_of(origin, host, operation)).collect();
            let host_code = self.assembler.code();
            self.listings.push(list_block(origin, &guest, host_code, self.cache.address(offset)));
        }
    }

    /// An instruction's address and bytes.
    fn bytes_of(&self, origin: &Origin, host: u64, operation: &Operation) -> (u64, Vec<u8>) {
        let start = operation.instruction.ip();
        let mut bytes = vec![0; operation.instruction.len()];
        for (byte, address) in bytes.chunks_mut(1).zip(start..) {
            let other = origin.other.filter(|other| other.linear >> 12 == address >> 12);
            let page = other.map_or(host & !0xfff, |other| other.host);
            self.memory.copy_out(page | address & 0xfff, byte);
        }
        (start, bytes)
    }
}
