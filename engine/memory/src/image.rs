//! RAM as a whole: what of it is there, as a sparse file, and frozen for copies that begin with it.

use crate::backing::{self, Backing};
use crate::{GuestMemory, PAGE_SIZE};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::PoisonError;

/// Bytes that are copied at a time.
const PIECE: usize = 1 << 18;
const PAGE: usize = PAGE_SIZE as usize;

/// Of an entry of /proc/self/pagemap (Linux, Documentation/admin-guide/mm/pagemap.rst): the page is a file's, or shared; it
/// is swapped out; it is there.
const OF_FILE: u64 = 1 << 61;
const SWAPPED: u64 = 1 << 62;
const PRESENT: u64 = 1 << 63;

/// What tells an image of RAM from another one: pages that are not all zeroes, and a checksum of them and their places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ImageDigest {
    /// Pages that are not all zeroes.
    pub pages: u64,
    /// CRC-32 of their numbers, as 8 bytes, each before its bytes.
    pub crc: u32,
}

impl ImageDigest {
    fn add(&mut self, hasher: &mut crc32fast::Hasher, number: u64, page: &[u8]) {
        self.pages += 1;
        hasher.update(&number.to_le_bytes());
        hasher.update(page);
    }
}

fn is_zero(page: &[u8]) -> bool {
    page.chunks_exact(8).all(|word| word == [0; 8])
}

/// The ranges between `from` and `to` of a file that are not holes, in whole pages.
fn data_of(file: &File, from: u64, to: u64) -> io::Result<Vec<Range<u64>>> {
    let seek = |at: u64, whence| {
        // SAFETY: no memory is involved; the result is checked.
        let found = unsafe { libc::lseek(file.as_raw_fd(), at as libc::off_t, whence) };
        if found < 0 { Err(io::Error::last_os_error()) } else { Ok(found as u64) }
    };
    let mut ranges = Vec::new();
    let mut at = from;
    while at < to {
        let start = match seek(at, libc::SEEK_DATA) {
            Ok(start) => start & !(PAGE_SIZE - 1),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => break,
            Err(error) => return Err(error),
        };
        let end = seek(start.max(at), libc::SEEK_HOLE)?.next_multiple_of(PAGE_SIZE);
        let range = start.max(from)..end.min(to);
        if range.start >= to {
            break;
        }
        at = range.end;
        ranges.push(range);
    }
    Ok(ranges)
}

/// The digest of the image of RAM that a file has from `offset` on.
///
/// # Errors
/// What reading says.
pub fn digest_of_image(file: &File, offset: u64, size: u64) -> io::Result<ImageDigest> {
    let (mut digest, mut hasher) = (ImageDigest::default(), crc32fast::Hasher::new());
    let mut piece = vec![0; PIECE];
    for range in data_of(file, offset, offset.saturating_add(size))? {
        for at in range.clone().step_by(PIECE) {
            let piece = &mut piece[..PIECE.min((range.end - at) as usize)];
            file.read_exact_at(piece, at)?;
            for (index, page) in piece.chunks_exact(PAGE).enumerate().filter(|(_, page)| !is_zero(page)) {
                digest.add(&mut hasher, (at - offset) / PAGE_SIZE + index as u64, page);
            }
        }
    }
    digest.crc = hasher.finalize();
    Ok(digest)
}

impl GuestMemory {
    /// The offsets in RAM of what may be anything but zeroes, ascending, in whole pages.
    ///
    /// # Errors
    /// What the host says.
    pub fn populated(&self) -> io::Result<Vec<Range<u64>>> {
        let backing = self.backing();
        let (file, offset) = backing.file();
        let of_file = data_of(file, offset, offset + self.size)?;
        let of_file = of_file.into_iter().map(|range| range.start - offset..range.end - offset);
        if backing.shared().is_some() {
            return Ok(of_file.collect());
        }
        let mut there = vec![false; (self.size / PAGE_SIZE) as usize];
        for range in of_file {
            there[(range.start / PAGE_SIZE) as usize..(range.end / PAGE_SIZE) as usize].fill(true);
        }
        self.mark_own_pages(&mut there)?;
        Ok(runs(&there))
    }

    /// Mark the pages that this mapping alone has.
    fn mark_own_pages(&self, there: &mut [bool]) -> io::Result<()> {
        let map = File::open("/proc/self/pagemap")?;
        let mut entries = vec![0; PIECE];
        for (index, pages) in there.chunks_mut(PIECE / 8).enumerate() {
            let first = self.base() / PAGE_SIZE + (index * (PIECE / 8)) as u64;
            let entries = &mut entries[..8 * pages.len()];
            map.read_exact_at(entries, 8 * first)?;
            for (page, entry) in pages.iter_mut().zip(entries.chunks_exact(8)) {
                let entry = u64::from_le_bytes(entry.try_into().unwrap_or_default());
                *page |= entry & (PRESENT | SWAPPED) != 0 && entry & OF_FILE == 0;
            }
        }
        Ok(())
    }

    /// Write RAM to a file from `offset` on, where there are holes yet: pages of zeroes stay holes.
    ///
    /// # Errors
    /// What the host says.
    pub fn write_image(&self, file: &File, offset: u64) -> io::Result<ImageDigest> {
        let (mut digest, mut hasher) = (ImageDigest::default(), crc32fast::Hasher::new());
        let mut piece = vec![0; PIECE];
        for range in self.populated()? {
            for at in range.clone().step_by(PIECE) {
                let piece = &mut piece[..PIECE.min((range.end - at) as usize)];
                self.copy_out(self.base() + at, piece);
                let there: Vec<bool> = piece.chunks_exact(PAGE).map(|page| !is_zero(page)).collect();
                for run in runs(&there) {
                    let bytes = &piece[run.start as usize..run.end as usize];
                    file.write_all_at(bytes, offset + at + run.start)?;
                    for (index, page) in bytes.chunks_exact(PAGE).enumerate() {
                        digest.add(&mut hasher, (at + run.start) / PAGE_SIZE + index as u64, page);
                    }
                }
            }
        }
        digest.crc = hasher.finalize();
        Ok(digest)
    }

    /// RAM as it is now, as a file that never changes: what is written from now on stays in this mapping. Nobody writes RAM
    /// meanwhile, and whoever had mirrors of it has closed them.
    ///
    /// # Errors
    /// What the host says. RAM is as it was then.
    pub fn freeze(&self) -> io::Result<File> {
        let image = if self.is_private() {
            let image = backing::memfd(self.size)?;
            self.write_image(&image, 0)?;
            image
        } else {
            self.backing().file().0.try_clone()?
        };
        let private = Backing::Private { file: image.try_clone()?, offset: 0 };
        // SAFETY: RAM is mapped there, the file has its bytes, and our caller sees to it that nobody writes them.
        unsafe { private.replace(self.base, self.size)? };
        *self.backing.write().unwrap_or_else(PoisonError::into_inner) = private;
        Ok(image)
    }
}

/// Runs of pages that are there, as byte offsets.
fn runs(there: &[bool]) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for (page, _) in there.iter().enumerate().filter(|(_, there)| **there) {
        let start = page as u64 * PAGE_SIZE;
        match runs.last_mut() {
            Some(last) if last.end == start => last.end += PAGE_SIZE,
            _ => runs.push(start..start + PAGE_SIZE),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGES: u64 = 1000;

    fn word(memory: &GuestMemory, page: u64) -> u64 {
        memory.load(memory.host(page * PAGE_SIZE).unwrap(), 8)
    }

    fn set_word(memory: &GuestMemory, page: u64, value: u64) {
        memory.store(memory.host(page * PAGE_SIZE).unwrap(), 8, value);
    }

    fn written() -> GuestMemory {
        let memory = GuestMemory::new(PAGES * PAGE_SIZE).unwrap();
        [3, 4, 100].into_iter().for_each(|page| set_word(&memory, page, page));
        set_word(&memory, 7, 0);
        memory
    }

    #[test]
    fn an_image_has_what_was_written_and_holes() {
        let (memory, file) = (written(), backing::memfd((PAGES + 2) * PAGE_SIZE).unwrap());
        let digest = memory.write_image(&file, 2 * PAGE_SIZE).unwrap();
        assert_eq!(digest.pages, 3);
        assert_eq!(digest_of_image(&file, 2 * PAGE_SIZE, PAGES * PAGE_SIZE).unwrap(), digest);
        let data = data_of(&file, 0, u64::MAX).unwrap();
        assert_eq!(data, [5 * PAGE_SIZE..7 * PAGE_SIZE, 102 * PAGE_SIZE..103 * PAGE_SIZE]);
        file.write_all_at(&[9], 102 * PAGE_SIZE + 8).unwrap();
        assert_ne!(digest_of_image(&file, 2 * PAGE_SIZE, PAGES * PAGE_SIZE).unwrap().crc, digest.crc);
    }

    #[test]
    fn private_ram_goes_its_own_way() {
        let (memory, file) = (written(), backing::memfd(PAGES * PAGE_SIZE).unwrap());
        memory.write_image(&file, 0).unwrap();
        let copy = || GuestMemory::over(file.try_clone().unwrap(), 0, PAGES * PAGE_SIZE).unwrap();
        let (one, other) = (copy(), copy());
        set_word(&one, 3, 33);
        set_word(&one, 500, 5);
        assert_eq!([3, 4, 500].map(|page| word(&one, page)), [33, 4, 5]);
        assert_eq!([3, 4, 500].map(|page| word(&other, page)), [3, 4, 0]);
        let again = backing::memfd(PAGES * PAGE_SIZE).unwrap();
        assert_eq!(one.write_image(&again, 0).unwrap().pages, 4);
        let third = GuestMemory::over(again, 0, PAGES * PAGE_SIZE).unwrap();
        assert_eq!([3, 4, 100, 500].map(|page| word(&third, page)), [33, 4, 100, 5]);
    }

    #[test]
    fn frozen_ram_is_what_it_was_however_often() {
        let memory = written();
        let size = PAGES * PAGE_SIZE;
        let first = memory.freeze().unwrap();
        set_word(&memory, 3, 33);
        let second = memory.freeze().unwrap();
        set_word(&memory, 3, 333);
        memory.discard(4 * PAGE_SIZE, PAGE_SIZE).unwrap();
        let words = [first, second].map(|file| {
            let copy = GuestMemory::over(file, 0, size).unwrap();
            [3, 4, 100].map(|page| word(&copy, page))
        });
        assert_eq!(words, [[3, 4, 100], [33, 4, 100]]);
        assert_eq!([3, 4, 100].map(|page| word(&memory, page)), [333, 0, 100]);
        assert!(memory.is_private());
    }

    #[test]
    fn a_file_that_is_too_short_is_refused() {
        let file = || backing::memfd(4 * PAGE_SIZE).unwrap();
        for (offset, size) in [(PAGE_SIZE, 4 * PAGE_SIZE), (1, PAGE_SIZE), (!0xfff, PAGE_SIZE)] {
            let refused = GuestMemory::over(file(), offset, size);
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidInput, "{offset:#x}+{size:#x}");
        }
    }
}
