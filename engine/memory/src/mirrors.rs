//! Pages of guest RAM once more, in the order of their linear addresses: what lies scattered in physical memory lies in a
//! row here, so that one addition leads to any of it.
//!
//! A window of linear addresses is opened where somebody asks for pages in it, and its pages are mapped as they are asked
//! for. What is mapped says nothing about what a guest may access now: whoever uses it has checked that.

use crate::{GuestMemory, PAGE_SIZE};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// Linear addresses of a window.
const WINDOW: u64 = 1 << 30;
const WINDOW_PAGES: usize = (WINDOW / PAGE_SIZE) as usize;
/// Windows that are open at a time.
const WINDOWS: usize = 8;
/// Mappings that a process may have, on hosts that say nothing else (`vm.max_map_count`): half of them is ours.
const MOST_MAPPINGS: usize = 65_530 / 2;

/// A mapping costs the host about as much time as the guest takes for so many instructions, ten times over: that leaves
/// nine tenths of the time to the guest.
const INSTRUCTIONS_OF_A_MAPPING: u64 = 30_000;
/// Mappings that may be made before that was earned, and …
const FIRST_CREDIT: u64 = 256;
/// … that can be saved up.
const MOST_CREDIT: u64 = MOST_MAPPINGS as u64 / 2;

/// Windows of several address spaces.
#[derive(Debug)]
pub struct Mirrors {
    windows: Vec<Window>,
    mappings: usize,
    most_mappings: usize,
    uses: u64,
    /// Mappings that may be made now.
    credit: u64,
    /// Up to which count of instructions they are earned.
    earned: u64,
}

/// What `Mirrors::lay` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Laid {
    /// Host address of the first page.
    pub host: u64,
    /// Linear addresses in the space at which something else was mapped before, perhaps.
    pub moved: Range<u64>,
    /// Spaces of which a window was closed: none of its addresses may be used any more.
    pub closed: Vec<usize>,
}

/// Pages in the order of their linear addresses.
#[derive(Debug)]
struct Window {
    space: usize,
    /// The linear address in units of windows.
    number: u64,
    base: *mut libc::c_void,
    /// 1 + the number of the page of RAM that is mapped at each place; 0 for none.
    pages: Vec<u32>,
    last_use: u64,
}

// SAFETY: the mapping belongs to this value alone; it may be used from whichever thread owns it.
unsafe impl Send for Window {}

impl Window {
    fn open(space: usize, number: u64) -> io::Result<Window> {
        // SAFETY: a new inaccessible mapping at an address of the kernel's choice; the result is checked.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                WINDOW as usize,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Window { space, number, base, pages: vec![0; WINDOW_PAGES], last_use: 0 })
    }

    /// Map `count` pages of RAM from number `page` on at `place`.
    fn map(&mut self, memory: &GuestMemory, place: usize, page: u64, count: usize) -> io::Result<()> {
        let backing = memory.backing();
        let file = backing.shared().ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?.as_raw_fd();
        assert!(place + count <= WINDOW_PAGES && (page + count as u64) * PAGE_SIZE <= memory.size());
        // SAFETY: `place..place + count` is inside our own mapping and the pages inside the file (checked above); the only
        // addresses that anybody has of what was mapped there before are those that `Laid` tells to forget.
        let mapped = unsafe {
            libc::mmap(
                self.base.add(place * PAGE_SIZE as usize),
                count * PAGE_SIZE as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_POPULATE,
                file,
                (page * PAGE_SIZE) as libc::off_t,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        for (known, page) in self.pages[place..place + count].iter_mut().zip(page + 1..) {
            *known = page as u32;
        }
        Ok(())
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `open` mapped; whoever had addresses in it was told to forget them.
        unsafe { libc::munmap(self.base, WINDOW as usize) };
    }
}

impl Mirrors {
    /// No windows; one of `sharers` of the process's mappings.
    pub fn new(sharers: usize) -> Mirrors {
        Mirrors {
            windows: Vec::new(),
            mappings: 0,
            most_mappings: MOST_MAPPINGS / sharers.max(1),
            uses: 0,
            credit: FIRST_CREDIT,
            earned: 0,
        }
    }

    /// The linear addresses that may be laid together with `linear`.
    pub fn window_of(linear: u64) -> Range<u64> {
        let start = linear & !(WINDOW - 1);
        start..start.saturating_add(WINDOW)
    }

    /// The processor has executed so many instructions: more mappings are worth their time.
    pub fn earn(&mut self, instructions: u64) {
        let mappings = instructions.saturating_sub(self.earned) / INSTRUCTIONS_OF_A_MAPPING;
        self.earned += mappings * INSTRUCTIONS_OF_A_MAPPING;
        self.credit = (self.credit + mappings).min(MOST_CREDIT);
    }

    /// Have the pages at the host addresses `pages` (`GuestMemory::host_page`) follow each other, as those of the linear
    /// addresses from `linear` on in address space `space` do, all within a window.
    ///
    /// None if they need too many mappings, or more than were earned, and nothing was done; always, of RAM that is private.
    ///
    /// # Errors
    /// What the host says if it refuses: every window is closed then.
    pub fn lay(
        &mut self,
        memory: &GuestMemory,
        space: usize,
        linear: u64,
        pages: &[u64],
    ) -> io::Result<Option<Laid>> {
        let number = |host: u64| memory.offset(host, PAGE_SIZE) / PAGE_SIZE;
        let pages: Vec<u64> = pages.iter().map(|&page| number(page)).collect();
        let runs = self.missing(space, linear, &pages);
        if memory.is_private() || runs > self.most_mappings / 2 || runs as u64 > self.credit {
            return Ok(None);
        }
        self.credit -= runs as u64;
        let mut closed = Vec::new();
        if self.mappings + runs > self.most_mappings {
            closed.extend(self.close());
        }
        let mut laid = self.try_lay(memory, space, linear, &pages).inspect_err(|_| {
            self.close();
        })?;
        laid.closed.extend(closed);
        Ok(Some(laid))
    }

    /// Mappings that would have to be made for these pages of RAM (by number).
    fn missing(&self, space: usize, linear: u64, pages: &[u64]) -> usize {
        let key = (space, linear / WINDOW);
        let window = self.windows.iter().find(|window| (window.space, window.number) == key);
        let first = (linear % WINDOW / PAGE_SIZE) as usize;
        let is_there =
            |at: usize| window.is_some_and(|window| u64::from(window.pages[first + at]) == pages[at] + 1);
        let begins = |at: usize| at == 0 || is_there(at - 1) || pages[at - 1] + 1 != pages[at];
        (0..pages.len()).filter(|&at| !is_there(at) && begins(at)).count()
    }

    /// Close every window; the spaces that lost one.
    pub fn close(&mut self) -> Vec<usize> {
        self.mappings = 0;
        self.windows.drain(..).map(|window| window.space).collect()
    }

    fn try_lay(
        &mut self,
        memory: &GuestMemory,
        space: usize,
        linear: u64,
        pages: &[u64],
    ) -> io::Result<Laid> {
        let (window, closed) = self.window(space, linear / WINDOW)?;
        let window = &mut self.windows[window];
        let first = (linear % WINDOW / PAGE_SIZE) as usize;
        let mut moved = Range { start: u64::MAX, end: 0 };
        let mut at = 0;
        while at < pages.len() {
            let page = pages[at];
            if u64::from(window.pages[first + at]) == page + 1 {
                at += 1;
                continue;
            }
            let follows = |&count: &usize| pages[at + count] == page + count as u64;
            let count = 1 + (1..pages.len() - at).take_while(follows).count();
            let start = linear + at as u64 * PAGE_SIZE;
            moved = moved.start.min(start)..start + count as u64 * PAGE_SIZE;
            window.map(memory, first + at, page, count)?;
            self.mappings += 1;
            at += count;
        }
        Ok(Laid { host: window.base as u64 + first as u64 * PAGE_SIZE, moved, closed })
    }

    /// The place of a window, opened if need be, and the spaces that lost one for it.
    fn window(&mut self, space: usize, number: u64) -> io::Result<(usize, Vec<usize>)> {
        self.uses += 1;
        let mut closed = Vec::new();
        let known = self.windows.iter().position(|window| (window.space, window.number) == (space, number));
        let place = match known {
            Some(place) => place,
            None => {
                if self.windows.len() == WINDOWS {
                    let oldest = (0..WINDOWS).min_by_key(|&place| self.windows[place].last_use).unwrap_or(0);
                    closed.push(self.windows.swap_remove(oldest).space);
                }
                self.windows.push(Window::open(space, number)?);
                self.windows.len() - 1
            }
        };
        self.windows[place].last_use = self.uses;
        Ok((place, closed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINEAR: u64 = 0x40_0000;

    fn memory() -> (GuestMemory, Vec<u64>) {
        let memory = GuestMemory::new(16 * PAGE_SIZE).unwrap();
        let pages = (0..16).map(|page| memory.host_page(page * PAGE_SIZE).unwrap()).collect();
        (memory, pages)
    }

    fn lay(mirrors: &mut Mirrors, memory: &GuestMemory, space: usize, linear: u64, pages: &[u64]) -> Laid {
        mirrors.lay(memory, space, linear, pages).unwrap().unwrap()
    }

    fn read(host: u64) -> u64 {
        // SAFETY: the tests pass addresses of pages that are mapped.
        unsafe { (host as *const u64).read_volatile() }
    }

    #[test]
    fn scattered_pages_lie_in_a_row_and_are_the_same_pages() {
        let (memory, pages) = memory();
        let order = [7, 6, 9, 10, 1];
        for page in order {
            memory.store(pages[page], 8, 100 + page as u64);
        }
        let scattered: Vec<u64> = order.iter().map(|&page| pages[page]).collect();
        let mut mirrors = Mirrors::new(1);
        let laid = lay(&mut mirrors, &memory, 0, LINEAR, &scattered);
        let seen: Vec<u64> = (0..5).map(|number| read(laid.host + number * PAGE_SIZE)).collect();
        assert_eq!(seen, [107, 106, 109, 110, 101]);
        assert_eq!(laid.moved, LINEAR..LINEAR + 5 * PAGE_SIZE);
        memory.store(pages[9], 8, 5);
        assert_eq!(read(laid.host + 2 * PAGE_SIZE), 5);
        assert!(lay(&mut mirrors, &memory, 0, LINEAR, &scattered).moved.is_empty(), "all is there");
    }

    #[test]
    fn what_is_elsewhere_now_is_told() {
        let (memory, pages) = memory();
        let mut mirrors = Mirrors::new(1);
        lay(&mut mirrors, &memory, 0, LINEAR, &pages[..4]);
        let laid = lay(&mut mirrors, &memory, 0, LINEAR, &[pages[0], pages[9], pages[2], pages[8]]);
        assert_eq!(laid.moved, LINEAR + PAGE_SIZE..LINEAR + 4 * PAGE_SIZE);
        let other = lay(&mut mirrors, &memory, 1, LINEAR, &pages[..1]);
        assert_ne!(other.host, laid.host, "another space's window");
    }

    #[test]
    fn the_window_used_longest_ago_makes_room() {
        let (memory, pages) = memory();
        let mut mirrors = Mirrors::new(1);
        for space in 0..WINDOWS {
            assert!(lay(&mut mirrors, &memory, space, LINEAR, &pages[..1]).closed.is_empty());
        }
        lay(&mut mirrors, &memory, 0, LINEAR, &pages[..1]);
        assert_eq!(lay(&mut mirrors, &memory, 0, LINEAR + WINDOW, &pages[..1]).closed, [1]);
    }

    #[test]
    fn mappings_have_to_be_earned() {
        let memory = GuestMemory::new(1024 * PAGE_SIZE).unwrap();
        let above = crate::VIDEO_HOLE.end;
        let apart: Vec<u64> =
            (0..400).map(|page| memory.host_page(above + 2 * page * PAGE_SIZE).unwrap()).collect();
        let mut mirrors = Mirrors::new(1);
        assert_eq!(mirrors.lay(&memory, 0, LINEAR, &apart).unwrap(), None);
        mirrors.earn(100 * INSTRUCTIONS_OF_A_MAPPING);
        assert_eq!(mirrors.lay(&memory, 0, LINEAR, &apart).unwrap(), None);
        lay(&mut mirrors, &memory, 0, LINEAR, &apart[..300]);
        mirrors.earn(200 * INSTRUCTIONS_OF_A_MAPPING);
        lay(&mut mirrors, &memory, 0, LINEAR, &apart);
        assert_eq!(mirrors.credit, FIRST_CREDIT + 200 - 400, "what was there costs nothing");
    }

    #[test]
    fn too_many_mappings_close_everything_or_are_refused() {
        let (memory, pages) = memory();
        let mut mirrors = Mirrors::new(MOST_MAPPINGS / 8);
        let apart: Vec<u64> = pages.iter().copied().step_by(2).collect();
        assert_eq!(mirrors.lay(&memory, 0, LINEAR, &apart).unwrap(), None, "more than half of what may be");
        lay(&mut mirrors, &memory, 3, LINEAR, &apart[..4]);
        assert_eq!(mirrors.lay(&memory, 3, LINEAR + WINDOW, &apart).unwrap(), None);
        assert!(lay(&mut mirrors, &memory, 3, LINEAR, &apart[..4]).moved.is_empty(), "all is as it was");
        assert!(lay(&mut mirrors, &memory, 1, LINEAR, &apart[..3]).closed.is_empty());
        assert_eq!(lay(&mut mirrors, &memory, 1, LINEAR, &apart[4..7]).closed, [3, 1]);
    }
}
