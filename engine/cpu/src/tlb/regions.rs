//! Regions: runs of pages that follow each other in the host's memory as in the guest's, so that one comparison and one
//! addition translate any address in them.
//!
//! A region holds only what the second level holds, with the right that it serves, and goes as soon as any of that might
//! go. Generated code compares with the regions of its context (`header::FIRST_REGION`), counts what misses, and asks for
//! another region when patience is at its end.

use super::header::{LONGEST_ACCESS, REGIONS};
use super::{Mode, SecondEntry, Space, Tlb, TlbContext, TlbEntry, right};
use gasang_memory::{GuestMemory, Laid, Mirrors, PAGE_SIZE};

/// Accesses that may miss a region before the first one is asked for.
const LEAST_PATIENCE: u32 = 32;
/// The same at most, where none that were found helped.
const MOST_PATIENCE: u32 = 1 << 16;
/// The most that is left of that when all regions are forgotten: they are likely to be as useful again.
const PATIENCE_AFTER_FLUSH: u32 = 1 << 10;
/// Pages to each side that the first search looks at; each search after it looks at twice as many, …
const LEAST_REACH: u32 = 32;
/// … up to a window of a mirror's.
const MOST_REACH: u32 = 1 << 18;
/// A region helped if so many instructions were executed for each page that was looked at to find it.
const WORTH_WHILE: u64 = 32;

/// Linear addresses of programs end here.
const LOWER_HALF: u64 = 1 << 47;

/// What is known of a context's regions beside what generated code reads.
#[derive(Debug, Clone)]
pub(super) struct Regions {
    /// Accesses that may miss each before the next is asked for.
    patience: [u32; REGIONS],
    /// Pages to each side that the next search looks at.
    reach: [u32; REGIONS],
    /// The count of instructions when each was found.
    found: [u64; REGIONS],
    /// Somebody has asked for one since all were forgotten.
    searched: bool,
    /// No region has an address below, …
    low: u64,
    /// … or from here on.
    high: u64,
}

impl Default for Regions {
    fn default() -> Regions {
        Regions {
            patience: [LEAST_PATIENCE; REGIONS],
            reach: [LEAST_REACH; REGIONS],
            found: [0; REGIONS],
            searched: false,
            low: u64::MAX,
            high: 0,
        }
    }
}

/// A region that no access is in.
const fn no_region(patience: u32) -> TlbEntry {
    TlbEntry { read: 0, write: 0, exec: 0, page: patience as u64 }
}

fn host_page(entry: &SecondEntry) -> u64 {
    entry[1] & !(PAGE_SIZE - 1)
}

/// An access that missed its region once too often.
#[derive(Debug, Clone, Copy)]
pub struct Missed {
    /// How it was made.
    pub mode: Mode,
    /// The region's number.
    pub region: usize,
    /// Its linear address.
    pub linear: u64,
    /// Instructions that the processor has executed.
    pub instructions: u64,
}

/// What laying pages in a row came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Laying {
    /// All that was laid before is where it was.
    AsBefore,
    /// Some of that may be elsewhere, or gone.
    Moved,
    /// They were too many for now.
    Refused,
}

/// Pages that follow each other here and there.
struct Run {
    first: u64,
    host: u64,
    pages: u64,
}

impl TlbContext {
    /// What is translated may change: no region holds.
    pub(super) fn forget_regions(&mut self) {
        if self.regions.searched {
            self.reset_regions();
        }
    }

    pub(super) fn reset_regions(&mut self) {
        let patience = self.regions.patience.map(|patience| patience.min(PATIENCE_AFTER_FLUSH));
        self.regions = Regions { patience, ..Regions::default() };
        for (region, patience) in self.slots[..REGIONS].iter_mut().zip(patience) {
            *region = no_region(patience);
        }
    }

    /// Pages may have become such that writes to them are told.
    pub(super) fn forget_written_regions(&mut self) {
        if self.regions.searched {
            let written = REGIONS / 2..REGIONS;
            for (region, &patience) in
                self.slots[written.clone()].iter_mut().zip(&self.regions.patience[written])
            {
                *region = no_region(patience);
            }
        }
    }

    /// The translation of `linear` may change.
    pub(super) fn forget_regions_with(&mut self, linear: u64) {
        if !(self.regions.low..self.regions.high).contains(&linear) {
            return;
        }
        for (region, patience) in self.slots[..REGIONS].iter_mut().zip(self.regions.patience) {
            let size = if region.write == 0 { 0 } else { region.write + LONGEST_ACCESS - 1 };
            if linear.wrapping_sub(region.read) < size {
                *region = no_region(patience);
            }
        }
    }

    /// What the second level knows of the page at `linear`, if region `number` may have it.
    fn usable(&self, number: usize, linear: u64, has_code: impl Fn(u64) -> bool) -> Option<SecondEntry> {
        let needed = if number < REGIONS / 2 { right::READ } else { right::WRITE };
        let entry = self.second(linear).filter(|entry| entry[1] & needed != 0)?;
        (needed == right::READ || !has_code(host_page(&entry))).then_some(entry)
    }

    /// The run that has the page at `linear`, of about `most` pages at most to each side.
    fn run(&self, linear: u64, most: u64, usable: impl Fn(u64) -> Option<SecondEntry>) -> Option<Run> {
        let host = host_page(&usable(linear)?);
        let follows = |distance: u64, up: bool| {
            away(linear, distance, up)
                .and_then(&usable)
                .is_some_and(|entry| away(host, distance, up) == Some(host_page(&entry)))
        };
        let pages = |up| (1..=most).take_while(|&number| follows(number * PAGE_SIZE, up)).count() as u64;
        let (below, above) = (pages(false), pages(true));
        let before = below * PAGE_SIZE;
        Some(Run { first: linear - before, host: host - before, pages: below + 1 + above })
    }

    /// Make region `number` this run; `instructions` were executed so far.
    fn set_region(&mut self, number: usize, run: Option<Run>, instructions: u64) {
        let Regions { patience, reach, found, searched, .. } = &mut self.regions;
        let patience = &mut patience[number];
        let since = instructions.wrapping_sub(std::mem::replace(&mut found[number], instructions));
        let helped = since > WORTH_WHILE * u64::from(reach[number]);
        *patience = if helped { *patience / 2 } else { *patience * 2 }.clamp(LEAST_PATIENCE, MOST_PATIENCE);
        *searched = true;
        let patience = *patience;
        self.slots[number] = run.map_or(no_region(patience), |Run { first, host, pages }| {
            let size = pages * PAGE_SIZE;
            self.regions.low = self.regions.low.min(first);
            self.regions.high = self.regions.high.max(first.saturating_add(size));
            TlbEntry {
                read: first,
                write: size - (LONGEST_ACCESS - 1),
                exec: host,
                page: u64::from(patience),
            }
        });
    }
}

/// An address so far from another.
fn away(from: u64, distance: u64, up: bool) -> Option<u64> {
    if up { from.checked_add(distance) } else { from.checked_sub(distance) }
}

impl Space {
    /// Something else is at these addresses of the space's mirror now.
    fn forget_moved(&mut self, moved: &std::ops::Range<u64>) {
        for linear in moved.clone().step_by(PAGE_SIZE as usize) {
            self.contexts.iter_mut().for_each(|context| context.forget_regions_with(linear));
        }
    }
}

impl Tlb {
    /// An access missed a region of the current space: make it one that has the address, if that can be. Programs' pages that
    /// are scattered are laid in a row in `mirrors`. `has_code` says it of a host page. False if host addresses that regions
    /// gave before may lead elsewhere by now, or nowhere.
    #[must_use]
    pub fn find_region(
        &mut self,
        missed: Missed,
        has_code: impl Fn(u64) -> bool,
        memory: &GuestMemory,
        mirrors: &mut Mirrors,
    ) -> bool {
        let Missed { mode, region: number, linear, instructions } = missed;
        let linear = linear & !(PAGE_SIZE - 1);
        let context = &self.spaces[self.current].contexts[mode as usize];
        let usable = |linear| context.usable(number, linear, &has_code);
        let reach = u64::from(context.regions.reach[number]);
        let mut run = context.run(linear, reach, usable);
        let mut laying = Laying::AsBefore;
        if linear < LOWER_HALF
            && let Some(Run { pages: known, .. }) = run
        {
            let (first, pages) = scattered(linear, reach, usable);
            if pages.len() as u64 > known {
                mirrors.earn(instructions);
                (run, laying) = self.lay(first, &pages, memory, mirrors, run);
            }
        }
        let context = &mut self.spaces[self.current].contexts[mode as usize];
        context.set_region(number, run, instructions);
        if laying != Laying::Refused {
            let reach = &mut context.regions.reach[number];
            *reach = (*reach * 2).min(MOST_REACH);
        }
        laying != Laying::Moved
    }

    /// Lay the pages at these host addresses in a row: the run that they are then, `otherwise` if they are too many, none if
    /// the host refused.
    fn lay(
        &mut self,
        first: u64,
        pages: &[u64],
        memory: &GuestMemory,
        mirrors: &mut Mirrors,
        otherwise: Option<Run>,
    ) -> (Option<Run>, Laying) {
        match mirrors.lay(memory, self.current, first, pages) {
            Ok(Some(Laid { host, moved, closed })) => {
                self.spaces[self.current].forget_moved(&moved);
                let as_before = moved.is_empty() && closed.is_empty();
                let laying = if as_before { Laying::AsBefore } else { Laying::Moved };
                for space in closed {
                    self.spaces[space].contexts.iter_mut().for_each(TlbContext::forget_regions);
                }
                (Some(Run { first, host, pages: pages.len() as u64 }), laying)
            }
            Ok(None) => (otherwise, Laying::Refused),
            Err(_) => {
                let contexts = self.spaces.iter_mut().flat_map(|space| &mut space.contexts);
                contexts.for_each(TlbContext::forget_regions);
                (None, Laying::Moved)
            }
        }
    }
}

/// Usable pages that follow each other in the guest, of one window, up to `most` on each side of `linear`: the first one's
/// linear address, and where each is.
fn scattered(linear: u64, most: u64, usable: impl Fn(u64) -> Option<SecondEntry>) -> (u64, Vec<u64>) {
    let window = Mirrors::window_of(linear);
    let side = |up| {
        (u64::from(up)..=most)
            .map_while(|number| away(linear, number * PAGE_SIZE, up).filter(|page| window.contains(page)))
            .map_while(|page| usable(page).map(|entry| host_page(&entry)))
            .collect::<Vec<u64>>()
    };
    let mut pages = side(false);
    let first = linear - (pages.len() as u64).saturating_sub(1) * PAGE_SIZE;
    pages.reverse();
    pages.extend(side(true));
    (first, pages)
}

#[cfg(test)]
mod tests {
    use super::super::Fill;
    use super::*;

    /// The upper half, of which there are no mirrors.
    const HIGH: u64 = 0xffff_8000_0000_0000;
    const WRITES: usize = REGIONS / 2;
    /// Linear addresses, and where they are in a host's memory.
    const PAGES: [(u64, u64); 4] =
        [(0x1000, 0x7_1000), (0x2000, 0x7_2000), (0x3000, 0x7_3000), (0x4000, 0x9_0000)];

    fn fill(linear: u64, page: u64) -> Fill {
        Fill {
            linear,
            page,
            physical: page,
            read: true,
            write: linear & 0xfff_ffff != 0x3000,
            has_code: false,
            flags: page,
            execute: true,
            global: false,
            size_shift: 12,
        }
    }

    fn tlb() -> Tlb {
        let mut tlb = Tlb::new(16);
        for (linear, page) in PAGES {
            tlb.insert(Mode::User, &fill(HIGH + linear, page));
        }
        tlb
    }

    fn missed(region: usize, linear: u64, instructions: u64) -> Missed {
        Missed { mode: Mode::User, region, linear, instructions }
    }

    fn find(tlb: &mut Tlb, number: usize, linear: u64, has_code: impl Fn(u64) -> bool) {
        let memory = GuestMemory::new(PAGE_SIZE).unwrap();
        let mirrors = &mut Mirrors::new(1);
        assert!(tlb.find_region(missed(number, HIGH + linear, 1), has_code, &memory, mirrors));
    }

    /// Where a region begins, its pages, and where they are.
    fn region(tlb: &Tlb, number: usize) -> Option<(u64, u64, u64)> {
        let TlbEntry { read, write, exec, .. } =
            tlb.spaces[tlb.current].contexts[Mode::User as usize].slots[number];
        (write != 0).then(|| (read & !HIGH, (write + LONGEST_ACCESS - 1) / PAGE_SIZE, exec))
    }

    #[test]
    fn a_region_is_as_long_as_pages_follow_each_other_on_both_sides() {
        let mut tlb = tlb();
        find(&mut tlb, 3, 0x2abc, |_| true);
        assert_eq!(region(&tlb, 3), Some((0x1000, 3, 0x7_1000)));
        find(&mut tlb, 3, 0x4abc, |_| true);
        assert_eq!(region(&tlb, 3), Some((0x4000, 1, 0x9_0000)));
        find(&mut tlb, 3, 0x5abc, |_| true);
        assert_eq!(region(&tlb, 3), None);
    }

    #[test]
    fn scattered_pages_of_programs_are_laid_in_a_row() {
        let memory = GuestMemory::new(16 * PAGE_SIZE).unwrap();
        let mut mirrors = Mirrors::new(1);
        let mut tlb = Tlb::new(16);
        let mut pages = [9, 8, 7, 3, 11].map(|page| memory.host_page(page * PAGE_SIZE).unwrap());
        for (linear, page) in (0x40_0000..).step_by(PAGE_SIZE as usize).zip(pages) {
            tlb.insert(Mode::User, &fill(linear, page));
        }
        let is_mirrored = |mirrors: &mut Mirrors, pages: &[u64]| {
            mirrors.lay(&memory, 0, 0x40_0000, pages).unwrap().unwrap().moved.is_empty()
        };
        assert!(!tlb.find_region(missed(0, 0x40_2345, 1), |_| true, &memory, &mut mirrors));
        let (first, count, host) = region(&tlb, 0).unwrap();
        assert_eq!((first, count), (0x40_0000, 5));
        assert!(is_mirrored(&mut mirrors, &pages));

        pages[1] = memory.host_page(0).unwrap();
        tlb.invalidate_page(0x40_1000);
        tlb.insert(Mode::User, &fill(0x40_1000, pages[1]));
        assert!(!tlb.find_region(missed(1, 0x40_0000, 1), |_| true, &memory, &mut mirrors));
        assert_eq!(region(&tlb, 1), Some((0x40_0000, 5, host)));
        assert!(is_mirrored(&mut mirrors, &pages), "the page that is there now");
        assert!(tlb.find_region(missed(2, 0x40_0000, 1), |_| true, &memory, &mut mirrors), "all is there");
    }

    #[test]
    fn a_region_for_writes_has_only_pages_that_may_be_written_unnoticed() {
        let mut tlb = tlb();
        find(&mut tlb, WRITES, 0x1000, |_| false);
        assert_eq!(region(&tlb, WRITES), Some((0x1000, 2, 0x7_1000)), "0x3000 may be read only");
        find(&mut tlb, WRITES, 0x1000, |page| page == 0x7_2000);
        assert_eq!(region(&tlb, WRITES), Some((0x1000, 1, 0x7_1000)));
        find(&mut tlb, 0, 0x1000, |_| true);
        tlb.forbid_writes(0x7_1000);
        assert_eq!(region(&tlb, WRITES), None);
        assert_eq!(region(&tlb, 0), Some((0x1000, 3, 0x7_1000)));
    }

    #[test]
    fn regions_go_with_what_they_hold() {
        let forgetting: [fn(&mut Tlb); 4] = [
            |tlb| tlb.invalidate_page(HIGH + 0x3fff),
            Tlb::flush_non_global,
            Tlb::flush_all,
            |tlb| tlb.flush_pcid(0),
        ];
        for forget in forgetting {
            let mut tlb = tlb();
            find(&mut tlb, 0, 0x1000, |_| true);
            tlb.invalidate_page(HIGH + 0x4000);
            assert!(region(&tlb, 0).is_some());
            forget(&mut tlb);
            assert_eq!(region(&tlb, 0), None);
        }
    }

    #[test]
    fn a_page_that_is_mapped_elsewhere_ends_its_regions() {
        let mut tlb = tlb();
        find(&mut tlb, 0, 0x1000, |_| true);
        let before = region(&tlb, 0);
        tlb.insert(Mode::User, &Fill { write: false, ..fill(HIGH + 0x2000, 0x7_2000) });
        assert_eq!(region(&tlb, 0), before, "other rights");
        tlb.insert(Mode::User, &fill(HIGH + 0x2000, 0x8_0000));
        assert_eq!(region(&tlb, 0), None);
    }

    #[test]
    fn patience_grows_with_every_search_that_did_not_help() {
        let mut tlb = tlb();
        let patience = |tlb: &Tlb| tlb.spaces[0].contexts[Mode::User as usize].slots[0].page;
        assert_eq!(patience(&tlb), u64::from(LEAST_PATIENCE));
        for times in [2, 4, 8] {
            find(&mut tlb, 0, 0x1000, |_| true);
            assert_eq!(patience(&tlb), u64::from(LEAST_PATIENCE) * times);
        }
        let memory = GuestMemory::new(PAGE_SIZE).unwrap();
        let long = 8 * u64::from(LEAST_REACH) * WORTH_WHILE;
        for (later, times) in [(2 + long, 4), (3 + long, 8)] {
            assert!(tlb.find_region(missed(0, HIGH, later), |_| true, &memory, &mut Mirrors::new(1)));
            assert_eq!(patience(&tlb), u64::from(LEAST_PATIENCE) * times, "a region that helped");
        }
        for later in 0..20 {
            assert!(tlb.find_region(missed(0, HIGH, later), |_| true, &memory, &mut Mirrors::new(1)));
        }
        assert_eq!(patience(&tlb), u64::from(MOST_PATIENCE));
        tlb.flush_all();
        assert_eq!(patience(&tlb), u64::from(PATIENCE_AFTER_FLUSH));
    }
}
