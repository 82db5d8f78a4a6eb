//! What KVM itself counts of a processor (KVM API, 4.133, KVM_GET_STATS_FD).

use crate::ioctl;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// Bytes of the header, and of a descriptor before its name.
const HEADER: usize = 24;
const DESCRIPTOR: usize = 16;
/// More descriptors than this, or longer names, no KVM has.
const MOST: usize = 4096;

/// The counters of one processor; any thread may read them.
#[derive(Debug)]
pub struct Statistics {
    file: File,
    /// The name of each, and where its value is.
    counters: Vec<(String, u64)>,
}

impl Statistics {
    pub(crate) fn of(vcpu: &impl AsRawFd) -> io::Result<Statistics> {
        let file = ioctl::statistics(vcpu)?;
        let counters = describe(|bytes, at| file.read_exact_at(bytes, at))?;
        Ok(Statistics { file, counters })
    }

    /// The counter of a name, 0 if KVM has none.
    pub fn get(&self, name: &str) -> u64 {
        let place = self.counters.iter().find(|(known, _)| known == name).map(|(_, place)| *place);
        let mut value = [0; 8];
        let read = place.map(|place| self.file.read_exact_at(&mut value, place));
        read.and_then(Result::ok).map_or(0, |()| u64::from_le_bytes(value))
    }
}

/// Names of counters and where their values are, of what the file says of itself.
fn describe(read: impl Fn(&mut [u8], u64) -> io::Result<()>) -> io::Result<Vec<(String, u64)>> {
    let mut header = [0; HEADER];
    read(&mut header, 0)?;
    let (name_size, count) = (word(&header, 4) as usize, word(&header, 8) as usize);
    let (descriptors, values) = (u64::from(word(&header, 16)), u64::from(word(&header, 20)));
    if name_size > MOST || count > MOST {
        return Err(io::Error::other("KVM describes its statistics in another way"));
    }
    let size = DESCRIPTOR + name_size;
    let mut bytes = vec![0; size * count];
    read(&mut bytes, descriptors)?;
    let counter = |descriptor: &[u8]| {
        let name = descriptor.get(DESCRIPTOR..).unwrap_or_default();
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        (String::from_utf8_lossy(name).into_owned(), values + u64::from(word(descriptor, 8)))
    };
    Ok(bytes.chunks_exact(size.max(1)).map(counter).collect())
}

/// A little-endian word of bytes, 0 beyond their end.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_name() {
        let mut file = vec![0; HEADER];
        for (at, value) in [(4, 8u32), (8, 2), (12, 24), (16, 32), (20, 96)] {
            file[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        file.resize(32, 0);
        for (name, offset) in [(b"exits\0\0\0", 0u32), (b"halts\0\0\0", 8)] {
            let mut descriptor = vec![0; DESCRIPTOR];
            descriptor[8..12].copy_from_slice(&offset.to_le_bytes());
            descriptor.extend_from_slice(name);
            file.extend(descriptor);
        }
        let read = |bytes: &mut [u8], at: u64| {
            let from =
                file.get(at as usize..at as usize + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            bytes.copy_from_slice(from);
            Ok(())
        };
        let counters = describe(read).unwrap();
        assert_eq!(counters, [("exits".to_owned(), 96), ("halts".to_owned(), 104)]);
        assert!(describe(|_, _| Err(io::ErrorKind::UnexpectedEof.into())).is_err());
    }
}
