//! Single files, read and written whole.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::protocol::{self, CHUNK, Fields, KEEP_MODE, invalid, kind};

/// A path as the host gives it.
pub fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// Send a file.
pub fn read(connection: &mut File, payload: &[u8]) -> io::Result<()> {
    let mut file = File::open(path(Fields(payload).bytes()?))?;
    send_content(connection, &mut file)?;
    protocol::send(connection, kind::END, &[])
}

/// Send what a file holds as `Data`.
pub fn send_content(connection: &mut File, file: &mut File) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            count => protocol::send(connection, kind::DATA, &buffer[..count])?,
        }
    }
}

/// Replace a file by what the host sends, all at once.
pub fn write(connection: &mut File, payload: &[u8]) -> io::Result<()> {
    let mut fields = Fields(payload);
    let mode = fields.u32()?;
    let target = follow(path(fields.bytes()?));
    if target.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    let kept = fs::metadata(&target).map_or(0o644, |found| found.permissions().mode() & 0o7777);
    let temporary = Temporary::beside(&target)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary.0)?;
    loop {
        match protocol::receive(connection)? {
            (kind::DATA, data) => file.write_all(&data)?,
            (kind::END, _) => break,
            _ => return Err(invalid("neither data nor its end")),
        }
    }
    file.set_permissions(Permissions::from_mode(if mode == KEEP_MODE { kept } else { mode & 0o7777 }))?;
    fs::rename(&temporary.0, &target)?;
    protocol::send(connection, kind::OK, &[])
}

/// Where a symbolic link leads: it is not the link that is replaced.
fn follow(target: &Path) -> PathBuf {
    fs::canonicalize(target).unwrap_or_else(|_| target.to_owned())
}

/// The name of a file that goes if it is still there.
struct Temporary(PathBuf);

impl Temporary {
    fn beside(target: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = target.file_name().ok_or_else(|| io::Error::from_raw_os_error(libc::EISDIR))?;
        let mut hidden = OsStr::new(".").to_owned();
        hidden.push(name.to_string_lossy().chars().take(64).collect::<String>());
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        hidden.push(format!(".gasang-{}-{number}", std::process::id()));
        Ok(Self(target.with_file_name(hidden)))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
