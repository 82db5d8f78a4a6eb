//! T2: what is hot is translated again, together with what follows it.
//!
//! Every so many instructions generated code is interrupted at the start of a block. A block that is found so again and
//! again is hot: T0 executes from there and notes its way, and what it went through becomes one block, with a way out at
//! each jump that may go elsewhere. A way that comes back to its start is followed several times round. Memory checks are
//! shared across all of it (`plan`): where pointers advance by constant steps, one check serves several rounds.

use crate::blocks::{AddressMap, Key, OtherPage, Piece, Variant};
use crate::decode::{BLOCK_LIMIT, Decoding, Kind, Operation, decode_block, mark_live_flags};
use crate::translation::{LONGEST_INSTRUCTION, Source, Start};
use crate::translator::{BLOCK_ROOM, Translator};
use gasang_cpu::{Core, VcpuState};
use gasang_exec::{Interpreter, Step};

/// Rounds of a loop in a superblock at most.
const ROUNDS: usize = 8;
/// Instructions that T0 executes to see where a hot block leads.
const FOLLOWED: usize = 3 * BLOCK_LIMIT;
/// Looks are so many times rarer at most when they find nothing.
const LONGEST_WAIT: u64 = 32;
/// Blocks that are remembered before all are forgotten.
const REMEMBERED: usize = 4096;
/// Says of a block that there is nothing to gain.
const HOPELESS: u8 = u8::MAX;

/// When to look which block is executed, and how often each was seen.
#[derive(Debug)]
pub(crate) struct Heat {
    /// By the host address of the block's first byte.
    seen: AddressMap<u64, u8>,
    /// Instructions between two looks at least, about; 0 for never.
    least: u64,
    /// Instructions between two looks, about.
    period: u64,
    /// Looks that make a block hot.
    enough: u8,
    /// The count of instructions at which to look next.
    next: u64,
    /// Makes the periods uneven, so that they fall in with no loop.
    noise: u64,
}

impl Heat {
    /// A look about every `period` instructions, never for 0, and more rarely while nothing is found; a block is hot when
    /// it was seen `enough` times.
    pub(crate) fn new(period: u64, enough: u8) -> Heat {
        Heat { seen: AddressMap::default(), least: period, period, enough, next: period, noise: 1 }
    }

    /// Instructions until the next look.
    pub(crate) fn left(&self, instructions: u64) -> i64 {
        if self.least == 0 { i64::MAX } else { self.next.saturating_sub(instructions) as i64 }
    }

    /// Whether a block that stopped for lack of instructions did so to be looked at.
    pub(crate) fn is_due(&self, instructions: u64) -> bool {
        self.left(instructions) < BLOCK_LIMIT as i64
    }

    /// The look found something to do, or not: when to look again.
    fn wait(&mut self, instructions: u64, found: bool) {
        self.period = if found { self.least } else { (2 * self.period).min(LONGEST_WAIT * self.least) };
        self.noise = self.noise.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        self.next = instructions + self.period / 2 + (self.noise >> 33) % self.period;
    }

    /// The block at `host` is executed; whether it is hot.
    fn see(&mut self, host: u64) -> bool {
        if self.seen.len() >= REMEMBERED {
            self.seen.clear();
        }
        let seen = self.seen.entry(host).or_default();
        *seen = seen.saturating_add(1);
        *seen >= self.enough
    }

    fn has_hope(&self, host: u64) -> bool {
        self.seen.get(&host) != Some(&HOPELESS)
    }

    pub(crate) fn give_up(&mut self, host: u64) {
        self.seen.insert(host, HOPELESS);
    }

    /// There is other code at `host` by now.
    pub(crate) fn forget(&mut self, host: u64) {
        self.seen.remove(&host);
    }
}

/// What decides how code is executed: a way is followed as long as it stays the same.
fn mode(state: &VcpuState) -> (u64, u8, bool, bool) {
    (state.cr3, state.cpl(), state.in_64bit_mode(), state.vmx.non_root())
}

/// A superblock in the making.
struct Builder {
    start: Start,
    /// The processor is in the mode in which the way was executed.
    same_mode: bool,
    operations: Vec<Operation>,
    pieces: [Piece; 2],
    other: Option<OtherPage>,
    /// Return addresses of the calls on the way.
    returns: Vec<u64>,
}

impl Translator {
    /// Look at the block at RIP, and if it is hot make a superblock from the way from there. Something to return if the
    /// caller must look.
    pub(crate) fn look(
        &mut self,
        core: &mut Core<'_>,
        interpreter: &mut Interpreter,
        end: u64,
    ) -> Option<Step> {
        let candidate = self.candidate(core);
        self.heat.wait(core.state.instructions, candidate.is_some());
        let start = candidate.filter(|start| self.heat.see(start.key.host))?;
        let before = mode(core.state);
        let (way, step) = self.follow(core, interpreter, end);
        let same_mode = before == mode(core.state);
        self.translating(start.key.linear, |translator| translator.make(core, start, &way, same_mode));
        step
    }

    /// The block at RIP, if it may become a superblock.
    fn candidate(&mut self, core: &mut Core<'_>) -> Option<Start> {
        let start = self.start(core, Variant::Block).filter(|start| start.key.wide)?;
        let block = self.blocks.get(self.blocks.find(start.key)?);
        let may = block.variant == Variant::Block && self.heat.has_hope(start.key.host);
        may.then_some(start)
    }

    /// Execute some instructions by T0, at most to where the page tables or the privilege change: their addresses and the
    /// next one's, and what T0 said if the caller must look.
    fn follow(
        &mut self,
        core: &mut Core<'_>,
        interpreter: &mut Interpreter,
        end: u64,
    ) -> (Vec<u64>, Option<Step>) {
        let before = mode(core.state);
        let mut way = vec![core.state.rip];
        let mut step = None;
        while way.len() <= FOLLOWED && step.is_none() && core.state.instructions < end {
            step = self.execute_one(core, interpreter);
            way.push(core.state.rip);
            if mode(core.state) != before {
                break;
            }
        }
        (way, step)
    }

    /// Make a superblock of what can be followed of the way, in place of the block at its start.
    fn make(&mut self, core: &mut Core<'_>, start: Start, way: &[u64], same_mode: bool) {
        if self.cache.left() < BLOCK_ROOM {
            // Everything goes soon.
            return;
        }
        let Some(old) = self.blocks.find(start.key) else { return };
        let mut builder = Builder {
            start,
            same_mode,
            operations: Vec::with_capacity(BLOCK_LIMIT),
            pieces: [Piece { host: start.key.host, size: 1 }, Piece::default()],
            other: None,
            returns: Vec::new(),
        };
        let stopped = way.len() <= BLOCK_LIMIT;
        let way = chosen(way);
        for pair in way.windows(2) {
            if !self.extend(core, &mut builder, pair[0], pair[1]) {
                break;
            }
        }
        let Builder { mut operations, pieces, other, .. } = builder;
        let (known, executed) = (self.blocks.get(old).instructions as usize, operations.len());
        // Also of the same instructions: more checks are shared.
        if executed >= known {
            mark_live_flags(&mut operations, self.options.strict_flags);
            let next = way[executed];
            self.blocks.take(&[old]);
            self.bar(old);
            self.statistics.superblocks += 1;
            self.place(
                core,
                start,
                &Source { operations, next, variant: Variant::Superblock, pieces, other },
            );
        } else {
            if stopped {
                self.heat.forget(start.key.host);
            } else {
                self.heat.give_up(start.key.host);
            }
            if let Some(other) = other {
                self.release(core, other.host);
            }
        }
    }

    /// Add the instruction at `rip`, which goes on at `next`; false if the superblock ends before it or with it.
    fn extend(&mut self, core: &mut Core<'_>, builder: &mut Builder, rip: u64, next: u64) -> bool {
        let Some(page) = self.page_of(core, builder, rip) else { return false };
        let host = page | rip & 0xfff;
        let mut bytes = [0; LONGEST_INSTRUCTION];
        let rest = ((4096 - (host & 0xfff)) as usize).min(LONGEST_INSTRUCTION);
        self.memory.copy_out(host, &mut bytes[..rest]);
        let Key { user, non_root, .. } = builder.start.key;
        let how = Decoding { bits: 64, user, non_root, strict_flags: self.options.strict_flags };
        let Some(mut operation) = decode_block(rip, &bytes[..rest], 1, how, &mut self.classifier).pop()
        else {
            return false;
        };
        let Some((kind, goes_on)) = through(&operation, next, &mut builder.returns) else { return false };
        operation.kind = kind;
        let size = operation.instruction.len() as u64;
        let piece = &mut builder.pieces[usize::from(page != builder.start.key.host & !0xfff)];
        *piece = including(*piece, host, size);
        builder.operations.push(operation);
        goes_on
    }

    /// The host's page for the code at `rip`: the page of the start, or the one other that there may be.
    fn page_of(&mut self, core: &mut Core<'_>, builder: &mut Builder, rip: u64) -> Option<u64> {
        let key = builder.start.key;
        if rip >> 12 == key.linear >> 12 {
            return Some(key.host & !0xfff);
        }
        if let Some(other) = builder.other {
            return (other.linear == rip & !0xfff).then_some(other.host);
        }
        if !builder.same_mode {
            return None;
        }
        let other = self.page(core, rip & !0xfff).filter(|other| other.host != key.host & !0xfff)?;
        self.protect(core, other.host);
        builder.other = Some(other);
        Some(other.host)
    }
}

/// The addresses that belong in a superblock, and the one after them: of a loop the most frequent way round, several
/// times; otherwise the way up to where a loop within it begins again.
fn chosen(way: &[u64]) -> Vec<u64> {
    let start = way[0];
    let rounds: Vec<&[u64]> = way.split(|&rip| rip == start).collect();
    // What comes before the start is nothing, what comes after its last return is no whole round.
    let whole = &rounds[1..rounds.len() - 1];
    let simple = |round: &&&[u64]| round.len() < BLOCK_LIMIT && first_repeated(round) == round.len();
    let frequency = |round: &&&[u64]| whole.iter().filter(|other| other == round).count();
    let Some(round) = whole.iter().rev().filter(simple).max_by_key(frequency) else {
        return way[..first_repeated(way).min(BLOCK_LIMIT).min(way.len() - 1) + 1].to_vec();
    };
    let times = ROUNDS.min(BLOCK_LIMIT / (round.len() + 1));
    let mut chosen: Vec<u64> = (0..times).flat_map(|_| [&[start], *round].concat()).collect();
    chosen.push(start);
    chosen
}

/// Where the first address comes that came before; the way's length if there is none.
fn first_repeated(way: &[u64]) -> usize {
    (1..way.len()).find(|&number| way[..number].contains(&way[number])).unwrap_or(way.len())
}

/// What the instruction is in a superblock in which `next` is executed after it, and whether anything may follow it there;
/// None if it cannot be there.
fn through(operation: &Operation, next: u64, returns: &mut Vec<u64>) -> Option<(Kind, bool)> {
    let behind = operation.instruction.next_ip();
    match operation.kind {
        Kind::Interpret => None,
        Kind::Jump(target) => (target == next).then_some((Kind::Nothing, true)),
        Kind::Branch(target) if behind == next => Some((Kind::Side { leave: target, when: true }, true)),
        Kind::Branch(target) => (target == next).then_some((Kind::Side { leave: behind, when: false }, true)),
        Kind::Call(target) if target == next => {
            returns.push(behind);
            Some((Kind::CallThrough, true))
        }
        Kind::Return(release) if returns.pop() == Some(next) => {
            Some((Kind::ReturnThrough { release, to: next }, true))
        }
        kind if kind.ends_block() => Some((kind, false)),
        kind => (behind == next).then_some((kind, true)),
    }
}

/// The piece and what lies between it and `size` bytes at `host` in the same page.
fn including(piece: Piece, host: u64, size: u64) -> Piece {
    if piece.size == 0 {
        return Piece { host, size };
    }
    let start = piece.host.min(host);
    Piece { host: start, size: (piece.host + piece.size).max(host + size) - start }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_is_followed_by_its_most_frequent_way_round() {
        let way = [1, 2, 4, 1, 2, 3, 1, 2, 3, 1, 2];
        assert_eq!(chosen(&way), [[1, 2, 3].repeat(ROUNDS), vec![1]].concat());
        let long: Vec<u64> = (0..160).map(|number| number % 40).collect();
        assert_eq!(chosen(&long), (0..41).map(|number| number % 40).collect::<Vec<u64>>());
        assert_eq!(chosen(&[1, 1, 1]), vec![1; ROUNDS + 1], "an instruction that jumps to itself");
    }

    #[test]
    fn a_way_ends_where_another_loop_begins_again() {
        assert_eq!(chosen(&[1, 2, 3, 4]), [1, 2, 3, 4]);
        assert_eq!(chosen(&[1, 2, 3, 2, 3, 2]), [1, 2, 3, 2]);
        assert_eq!(chosen(&[1, 2, 3, 2, 3, 1, 2]), [1, 2, 3, 2], "a round with a loop in it");
        let straight: Vec<u64> = (0..100).collect();
        assert_eq!(chosen(&straight), straight[..=BLOCK_LIMIT]);
    }

    #[test]
    fn a_block_is_hot_when_it_was_seen_often_enough() {
        let mut heat = Heat::new(1000, 3);
        assert!(!heat.see(0x10) && !heat.see(0x10) && !heat.see(0x20));
        assert!(heat.see(0x10));
        heat.give_up(0x10);
        assert!(!heat.has_hope(0x10) && heat.has_hope(0x20));
        heat.forget(0x10);
        assert!(heat.has_hope(0x10) && !heat.see(0x10), "other code starts anew");
        assert!(!heat.is_due(0) && heat.is_due(1000));
        heat.wait(1000, true);
        assert!((500..1500).contains(&heat.left(1000)));
        heat.wait(1000, false);
        assert!((1000..3000).contains(&heat.left(1000)));
        assert_eq!(Heat::new(0, 3).left(1 << 40), i64::MAX);
    }
}
