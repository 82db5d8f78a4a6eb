//! The pages that code was translated from, and how the processors of a machine agree about them.
//!
//! A page that holds translated code is marked in its flags, and no processor may have a TLB entry that lets it write
//! there unnoticed. Whoever marks a page first asks all processors to forget such entries, and reads the page only when
//! each of them has done so or is outside of guest code. Between two instructions of T0, and at the start of a block, a
//! processor is at a *safepoint*: there it does what the others asked, and tells them what it wrote.
//!
//! A write is told after it was made. A processor that translated the old bytes meanwhile learns of it at its next
//! safepoint; one that the writer has told (by a store, or by an interrupt) and that has then executed a serializing
//! instruction, which is a safepoint, executes the new bytes (SDM vol. 3, 9.1.3).

use crate::blocks::AddressMap;
use crate::kick::Kick;
use gasang_cpu::Tlb;
use gasang_memory::{GuestMemory, NotRam, PAGE_HAS_CODE, PAGE_SIZE, PAGE_WRITABLE_IN_TLB};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

/// Ranges of host addresses: first byte and length.
type Ranges = Vec<(u64, u64)>;

/// What the translators of one machine share.
#[derive(Debug)]
pub struct CodePages {
    memory: Arc<GuestMemory>,
    processors: Box<[Processor]>,
    /// How many translators have code from a page, by its host address. Held while a page is marked or unmarked.
    users: Mutex<AddressMap<u64, u32>>,
}

/// What concerns one processor. In cache lines of its own: the flags are read at every safepoint.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Processor {
    /// It may be using its TLB.
    inside: AtomicBool,
    /// `forbidden` is not empty.
    asked: AtomicBool,
    /// `noted` is not empty.
    has_noted: AtomicBool,
    /// `written` is not empty.
    has_written: AtomicBool,
    /// Pages that it must forget how to write.
    forbidden: Mutex<Vec<u64>>,
    /// What it has written since its last safepoint.
    noted: Mutex<Ranges>,
    /// What anybody has written since it asked last.
    written: Mutex<Ranges>,
    kick: Kick,
}

/// A processor is inside guest code, until dropped.
#[derive(Debug)]
pub struct Inside<'a> {
    pages: &'a CodePages,
    processor: usize,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.pages.publish(self.processor);
        self.pages.processors[self.processor].inside.store(false, Ordering::SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CodePages {
    /// For a machine of so many processors over `memory`.
    pub fn new(memory: &Arc<GuestMemory>, processors: usize) -> CodePages {
        CodePages {
            memory: Arc::clone(memory),
            processors: (0..processors).map(|_| Processor::default()).collect(),
            users: Mutex::default(),
        }
    }

    /// How many processors the machine has.
    pub(crate) fn processors(&self) -> usize {
        self.processors.len()
    }

    /// Processor number `processor` is about to use its TLB, and does so until the value is dropped.
    pub fn enter(&self, processor: usize, tlb: &mut Tlb) -> Inside<'_> {
        self.processors[processor].inside.store(true, Ordering::SeqCst);
        self.serve(processor, tlb);
        Inside { pages: self, processor }
    }

    /// The processor wrote, or is about to write within this instruction, bytes of a page that holds code.
    pub fn note(&self, processor: usize, host: u64, length: u64) {
        let own = &self.processors[processor];
        lock(&own.noted).push((host, length));
        own.has_noted.store(true, Ordering::Release);
    }

    /// Write RAM for a device, or on whatever behalf. It waits for nobody.
    ///
    /// # Errors
    /// If any of it is not RAM; nothing is written then.
    pub fn write_physical(&self, address: u64, bytes: &[u8]) -> Result<(), NotRam> {
        self.memory.write_physical(address, bytes)?;
        self.written(address, bytes.len() as u64);
        Ok(())
    }

    /// Somebody has written RAM, and told nobody.
    pub fn written(&self, address: u64, length: u64) {
        // Who marks a page after this look at the mark reads the bytes after this write.
        fence(Ordering::SeqCst);
        let mut ranges = Vec::new();
        let mut done = 0;
        while done < length {
            let at = address + done;
            let part = (length - done).min(PAGE_SIZE - at % PAGE_SIZE);
            if let Some(host) = self.memory.host(at)
                && self.memory.flags(host).load(Ordering::Acquire) & PAGE_HAS_CODE != 0
            {
                ranges.push((host, part));
            }
            done += part;
        }
        self.tell(&ranges);
    }

    /// Any page may have been written, by somebody who told nobody: those that hold code are looked at again.
    pub fn all_may_be_written(&self) {
        let ranges: Ranges = lock(&self.users).keys().map(|&page| (page, PAGE_SIZE)).collect();
        self.tell(&ranges);
    }

    /// Make the processor leave translated code soon.
    pub fn kick(&self, processor: usize) {
        self.processors[processor].kick.kick();
    }

    /// The processor's thread runs translated code from now on: kicks reach it.
    pub fn thread_begins(&self, processor: usize) {
        self.processors[processor].kick.thread_begins();
    }

    /// Kicks no longer reach it.
    pub fn thread_ends(&self, processor: usize) {
        self.processors[processor].kick.thread_ends();
    }

    /// Whether a safepoint would do something.
    #[inline]
    pub(crate) fn waits(&self, processor: usize) -> bool {
        let own = &self.processors[processor];
        own.asked.load(Ordering::SeqCst)
            || own.has_noted.load(Ordering::Relaxed)
            || own.has_written.load(Ordering::Acquire)
    }

    /// Whether the processor must forget how to write some page.
    #[inline]
    pub(crate) fn is_asked(&self, processor: usize) -> bool {
        self.processors[processor].asked.load(Ordering::SeqCst)
    }

    /// Tell what the processor wrote, do what it was asked, and return what anybody wrote.
    pub(crate) fn safepoint(&self, processor: usize, tlb: &mut Tlb) -> Ranges {
        self.publish(processor);
        self.serve(processor, tlb);
        let own = &self.processors[processor];
        if !own.has_written.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut written = lock(&own.written);
        own.has_written.store(false, Ordering::Relaxed);
        std::mem::take(&mut *written)
    }

    /// The processor's translator is about to read its first code from the page at `host`: from now on writes to it are
    /// told.
    pub(crate) fn protect(&self, processor: usize, tlb: &mut Tlb, host: u64) {
        let page = host & !(PAGE_SIZE - 1);
        let mut users = self.users_while_serving(processor, tlb);
        let count = users.entry(page).or_default();
        *count += 1;
        if *count > 1 {
            return;
        }
        let before = self.memory.flags(page).fetch_or(PAGE_HAS_CODE, Ordering::SeqCst);
        if before & PAGE_WRITABLE_IN_TLB != 0 {
            tlb.forbid_writes(page);
            self.ask_others(processor, page);
        }
    }

    /// The processor's translator has no code from the page any more.
    pub(crate) fn release(&self, processor: usize, tlb: &mut Tlb, host: u64) {
        let page = host & !(PAGE_SIZE - 1);
        let mut users = self.users_while_serving(processor, tlb);
        if let Some(count) = users.get_mut(&page) {
            *count -= 1;
            if *count == 0 {
                users.remove(&page);
                self.memory.flags(page).fetch_and(!PAGE_HAS_CODE, Ordering::SeqCst);
            }
        }
    }

    /// The lock, while doing what its holder may ask: it waits for us.
    fn users_while_serving(&self, processor: usize, tlb: &mut Tlb) -> MutexGuard<'_, AddressMap<u64, u32>> {
        loop {
            match self.users.try_lock() {
                Ok(users) => return users,
                Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    self.serve(processor, tlb);
                    std::thread::yield_now();
                }
            }
        }
    }

    /// Have every other processor forget how to write `page`; return when each has, or will before it uses its TLB.
    fn ask_others(&self, processor: usize, page: u64) {
        let others = || self.processors.iter().enumerate().filter(|&(index, _)| index != processor);
        for (_, other) in others() {
            let mut forbidden = lock(&other.forbidden);
            forbidden.push(page);
            other.asked.store(true, Ordering::SeqCst);
        }
        for (_, other) in others() {
            if other.is_late() {
                other.kick.kick();
            }
        }
        for (_, other) in others() {
            while other.is_late() {
                std::thread::yield_now();
            }
        }
    }

    /// Do what others asked of the processor.
    #[inline]
    fn serve(&self, processor: usize, tlb: &mut Tlb) {
        let own = &self.processors[processor];
        if own.asked.load(Ordering::SeqCst) {
            let mut forbidden = lock(&own.forbidden);
            forbidden.drain(..).for_each(|page| tlb.forbid_writes(page));
            own.asked.store(false, Ordering::SeqCst);
        }
    }

    /// Tell every processor what this one wrote.
    #[inline]
    fn publish(&self, processor: usize) {
        let own = &self.processors[processor];
        if own.has_noted.load(Ordering::Relaxed) {
            own.has_noted.store(false, Ordering::Relaxed);
            let noted = std::mem::take(&mut *lock(&own.noted));
            self.tell(&noted);
        }
    }

    fn tell(&self, ranges: &[(u64, u64)]) {
        if ranges.is_empty() {
            return;
        }
        for processor in &self.processors {
            let mut written = lock(&processor.written);
            written.extend_from_slice(ranges);
            processor.has_written.store(true, Ordering::Release);
        }
    }
}

impl Processor {
    /// It has been asked, has not done it, and may be using its TLB.
    fn is_late(&self) -> bool {
        self.inside.load(Ordering::SeqCst) && self.asked.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gasang_cpu::tlb::{Fill, Mode};
    use std::sync::atomic::AtomicU64;

    const LINEAR: u64 = 0x40_0000;

    fn machine(processors: usize) -> (Arc<GuestMemory>, CodePages, u64) {
        let memory = Arc::new(GuestMemory::new(16 * PAGE_SIZE).unwrap());
        let pages = CodePages::new(&memory, processors);
        let page = memory.host(0x3000).unwrap();
        (memory, pages, page)
    }

    /// As `Core::translate` does for a write.
    fn fill_for_write(memory: &GuestMemory, tlb: &mut Tlb, page: u64) -> bool {
        let seen = memory.flags(page).fetch_or(PAGE_WRITABLE_IN_TLB, Ordering::SeqCst);
        let has_code = seen & PAGE_HAS_CODE != 0;
        let fill = Fill {
            linear: LINEAR,
            page,
            physical: 0x3000,
            read: true,
            write: true,
            has_code,
            flags: std::ptr::from_ref(memory.flags(page)) as u64,
            execute: true,
            global: false,
            size_shift: 12,
        };
        tlb.insert(Mode::User, &fill);
        !has_code
    }

    fn may_write(tlb: &Tlb) -> bool {
        tlb.entry(Mode::User, LINEAR).write == LINEAR
    }

    #[test]
    fn a_write_is_told_to_every_processor_once_its_instruction_is_over() {
        let (_, pages, page) = machine(2);
        let mut tlb = Tlb::new(16);
        pages.note(0, page, 4);
        assert!(pages.safepoint(1, &mut tlb).is_empty());
        assert_eq!(pages.safepoint(0, &mut tlb), [(page, 4)]);
        assert_eq!(pages.safepoint(1, &mut tlb), [(page, 4)]);
        assert!(!pages.waits(0) && !pages.waits(1));
    }

    #[test]
    fn leaving_the_guest_tells_what_was_written() {
        let (_, pages, page) = machine(2);
        let mut tlb = Tlb::new(16);
        let inside = pages.enter(0, &mut tlb);
        pages.note(0, page, 1);
        drop(inside);
        assert_eq!(pages.safepoint(1, &mut tlb), [(page, 1)]);
    }

    #[test]
    fn a_write_from_outside_is_told_only_where_there_is_code() {
        let (_, pages, page) = machine(1);
        let mut tlb = Tlb::new(16);
        pages.protect(0, &mut tlb, page + 8);
        pages.write_physical(0x2ffe, &[1, 2, 3, 4]).unwrap();
        assert_eq!(pages.safepoint(0, &mut tlb), [(page, 2)]);
        pages.release(0, &mut tlb, page);
        pages.write_physical(0x3000, &[1]).unwrap();
        assert!(!pages.waits(0));
    }

    #[test]
    fn a_page_is_written_freely_again_when_the_last_translator_lets_go_of_it() {
        let (memory, pages, page) = machine(2);
        let mut tlb = Tlb::new(16);
        let marked = || memory.flags(page).load(Ordering::Relaxed) & PAGE_HAS_CODE != 0;
        pages.protect(0, &mut tlb, page);
        pages.protect(1, &mut tlb, page);
        assert!(!fill_for_write(&memory, &mut tlb, page));
        pages.release(0, &mut tlb, page);
        assert!(marked());
        pages.release(1, &mut tlb, page);
        assert!(!marked());
        assert!(fill_for_write(&memory, &mut tlb, page));
    }

    #[test]
    fn a_processor_outside_forgets_when_it_comes_back() {
        let (memory, pages, page) = machine(2);
        let (mut own, mut other) = (Tlb::new(16), Tlb::new(16));
        assert!(fill_for_write(&memory, &mut own, page) && fill_for_write(&memory, &mut other, page));
        pages.protect(0, &mut own, page);
        assert!(!may_write(&own));
        assert!(may_write(&other), "nobody else touches its TLB");
        let _inside = pages.enter(1, &mut other);
        assert!(!may_write(&other));
    }

    /// Two processors write a word and translate it in turns: what a translator read never outlives a write that was
    /// made without its knowledge.
    #[test]
    fn no_write_escapes_a_translator() {
        const ROUNDS: u64 = 2000;
        let (memory, pages, page) = machine(2);
        let word = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut tlb = Tlb::new(16);
                for value in 1..=ROUNDS {
                    let _inside = pages.enter(1, &mut tlb);
                    // A store: by the TLB entry, or noticed.
                    if !may_write(&tlb) && !fill_for_write(&memory, &mut tlb, page) {
                        pages.note(1, page, 8);
                    }
                    word.store(value, Ordering::Relaxed);
                }
            });
            let mut tlb = Tlb::new(16);
            let mut translated = None;
            loop {
                let last = writer.is_finished();
                let _inside = pages.enter(0, &mut tlb);
                if !pages.safepoint(0, &mut tlb).is_empty() {
                    translated = None;
                    pages.release(0, &mut tlb, page);
                }
                if translated.is_none() {
                    pages.protect(0, &mut tlb, page);
                    translated = Some(word.load(Ordering::Relaxed));
                }
                if last {
                    break;
                }
            }
            assert_eq!(translated, Some(ROUNDS));
        });
    }
}
