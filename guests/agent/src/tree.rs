//! Trees of files, in and out. A path that comes in names something below the tree's root, whatever it says.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use crate::files::{path, send_content};
use crate::protocol::{self, Fields, invalid, kind, put_bytes};

const FILE: u8 = 0;
const DIRECTORY: u8 = 1;
const LINK: u8 = 2;

/// Make the tree that the host sends.
pub fn push(connection: &mut File, payload: &[u8]) -> io::Result<()> {
    let mut fields = Fields(payload);
    let (target, name) = (path(fields.bytes()?), fields.bytes()?);
    let root = if target.is_dir() && !name.is_empty() { below(target, name)? } else { target.to_owned() };
    let mut modes: Vec<(PathBuf, u32)> = Vec::new();
    let mut file: Option<File> = None;
    loop {
        match protocol::receive(connection)? {
            (kind::ENTRY, entry) => file = make(&root, &entry, &mut modes)?,
            (kind::DATA, data) => {
                file.as_mut().ok_or_else(|| invalid("data of no file"))?.write_all(&data)?
            }
            (kind::END, _) => break,
            _ => return Err(invalid("no part of a tree")),
        }
    }
    // At the end, because a directory may be one that nobody may write to.
    for (directory, mode) in modes.into_iter().rev() {
        fs::set_permissions(directory, Permissions::from_mode(mode))?;
    }
    protocol::send(connection, kind::OK, &[])
}

/// One entry of a tree; the file that its data goes to.
fn make(root: &Path, entry: &[u8], modes: &mut Vec<(PathBuf, u32)>) -> io::Result<Option<File>> {
    let mut fields = Fields(entry);
    let (what, mode) = (fields.u8()?, fields.u32()? & 0o7777);
    let (place, target) = (below(root, fields.bytes()?)?, fields.bytes()?);
    match what {
        DIRECTORY => {
            match fs::create_dir(&place) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_directory(&place) => {}
                other => other?,
            }
            modes.push((place, mode));
            Ok(None)
        }
        LINK => {
            replace(&place)?;
            symlink(path(target), &place)?;
            Ok(None)
        }
        FILE => {
            replace(&place)?;
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .custom_flags(libc::O_NOFOLLOW)
                .mode(0o600)
                .open(&place)?;
            file.set_permissions(Permissions::from_mode(mode))?;
            Ok(Some(file))
        }
        _ => Err(invalid("an entry of no kind")),
    }
}

/// Make room for a file.
fn replace(place: &Path) -> io::Result<()> {
    match fs::remove_file(place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A place below `root`. Fails for names that lead elsewhere, by themselves or by a link on the way.
fn below(root: &Path, name: &[u8]) -> io::Result<PathBuf> {
    let mut place = root.to_owned();
    let name = Path::new(OsStr::from_bytes(name));
    let mut components = name.components().peekable();
    while let Some(component) = components.next() {
        let Component::Normal(part) = component else { return Err(invalid("a path that leaves its tree")) };
        place.push(part);
        if components.peek().is_some() && !is_directory(&place) {
            return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
        }
    }
    Ok(place)
}

fn is_directory(place: &Path) -> bool {
    fs::symlink_metadata(place).is_ok_and(|found| found.is_dir())
}

/// Send a tree: directories before what is in them; of devices, sockets and pipes nothing.
pub fn pull(connection: &mut File, payload: &[u8]) -> io::Result<()> {
    let root = path(Fields(payload).bytes()?);
    // What is named is followed, as cp does; links below it are sent as links.
    let root = fs::canonicalize(root)?;
    let mut waiting = vec![PathBuf::new()];
    while let Some(relative) = waiting.pop() {
        let place = if relative.as_os_str().is_empty() { root.clone() } else { root.join(&relative) };
        let found = fs::symlink_metadata(&place)?;
        let kind_of = found.file_type();
        let (what, target) = if kind_of.is_dir() {
            (DIRECTORY, PathBuf::new())
        } else if kind_of.is_symlink() {
            (LINK, fs::read_link(&place)?)
        } else if kind_of.is_file() {
            (FILE, PathBuf::new())
        } else {
            continue;
        };
        let mut file = if what == FILE { Some(File::open(&place)?) } else { None };
        let mut entry = vec![what];
        entry.extend_from_slice(&(found.permissions().mode() & 0o7777).to_le_bytes());
        put_bytes(&mut entry, relative.as_os_str().as_bytes());
        put_bytes(&mut entry, target.as_os_str().as_bytes());
        protocol::send(connection, kind::ENTRY, &entry)?;
        if let Some(file) = &mut file {
            send_content(connection, file)?;
        }
        if what == DIRECTORY {
            let mut names = fs::read_dir(&place)?.collect::<io::Result<Vec<_>>>()?;
            names.sort_by_key(fs::DirEntry::file_name);
            waiting.extend(names.into_iter().rev().map(|each| relative.join(each.file_name())));
        }
    }
    protocol::send(connection, kind::END, &[])
}
