//! How a command runs that the host says no more of, as the image that is the guest's root has it.

use std::fs;

/// Where the host has put it, if the root is an image: `environ` as in /proc, `cwd`, `user`.
const PLACE: &str = "/run/gasang/defaults";

/// Pairs NAME=value.
pub fn environment() -> Vec<Vec<u8>> {
    let all = read("environ");
    all.split(|byte| *byte == 0).filter(|pair| !pair.is_empty()).map(<[u8]>::to_vec).collect()
}

/// A directory, or nothing.
pub fn directory() -> Vec<u8> {
    read("cwd")
}

/// As in a request, or nothing.
pub fn user() -> Vec<u8> {
    read("user")
}

fn read(name: &str) -> Vec<u8> {
    fs::read(format!("{PLACE}/{name}")).unwrap_or_default()
}
