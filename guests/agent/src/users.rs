//! /etc/passwd and /etc/group, read by ourselves: a static program has no name service.

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

/// The user with this name or number, behind which ":" and a group may stand. Fails if there is none; a number
/// need not be known.
pub fn find(wanted: &[u8]) -> io::Result<User> {
    let mut parts = wanted.splitn(2, |byte| *byte == b':');
    let (name, group) = (parts.next().unwrap_or_default(), parts.next());
    let known = lines("/etc/passwd").iter().find_map(|line| matching_user(line, name));
    let mut user = known.or_else(|| unknown(number(name)?)).ok_or_else(|| missing("user", name, "passwd"))?;
    if let Some(group) = group {
        let known = lines("/etc/group").iter().find_map(|line| matching_group(line, group));
        user.ids.1 = known.or_else(|| number(group)).ok_or_else(|| missing("group", group, "group"))?;
    }
    Ok(user)
}

fn missing(what: &str, name: &[u8], file: &str) -> io::Error {
    let name = String::from_utf8_lossy(name);
    io::Error::new(io::ErrorKind::NotFound, format!("no {what} {name} in the guest's /etc/{file}"))
}

/// The lines of a file, which need not be there.
fn lines(path: &str) -> Vec<Vec<u8>> {
    let content = fs::read(path).unwrap_or_default();
    content.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

fn matching_user(line: &[u8], wanted: &[u8]) -> Option<User> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
    let [name, _, user, group, _, home, ..] = fields[..] else { return None };
    if wanted != name && wanted != user {
        return None;
    }
    Some(User { ids: (number(user)?, number(group)?), environment: environment(home, name) })
}

fn matching_group(line: &[u8], wanted: &[u8]) -> Option<u32> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
    let [name, _, group, ..] = fields[..] else { return None };
    if wanted == name || wanted == group { number(group) } else { None }
}

/// A user of whom nothing is known but the number.
fn unknown(user: u32) -> Option<User> {
    Some(User { ids: (user, 0), environment: environment(b"/", user.to_string().as_bytes()) })
}

fn environment(home: &[u8], name: &[u8]) -> [(&'static str, OsString); 3] {
    let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    [("HOME", text(home)), ("USER", text(name)), ("LOGNAME", text(name))]
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}
