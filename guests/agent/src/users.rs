//! /etc/passwd, read by ourselves: a static program has no name service.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;

/// A user to run a command as.
pub struct User {
    /// Numbers of user and group.
    pub ids: (u32, u32),
    /// What its environment says of it.
    pub environment: [(&'static str, OsString); 3],
}

/// The user with this name or number. Fails if there is none.
pub fn find(wanted: &[u8]) -> io::Result<User> {
    let users = fs::read("/etc/passwd")?;
    users.split(|byte| *byte == b'\n').find_map(|line| matching(line, wanted)).ok_or_else(|| {
        let name = String::from_utf8_lossy(wanted);
        io::Error::new(io::ErrorKind::NotFound, format!("no user {name} in the guest's /etc/passwd"))
    })
}

fn matching(line: &[u8], wanted: &[u8]) -> Option<User> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
    let [name, _, user, group, _, home, ..] = fields[..] else { return None };
    if wanted != name && wanted != user {
        return None;
    }
    let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    Some(User {
        ids: (number(user)?, number(group)?),
        environment: [("HOME", text(home)), ("USER", text(name)), ("LOGNAME", text(name))],
    })
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}
