"""Initial RAM disks: archives in the kernel's "newc" cpio form, written without external tools.

The format is the kernel's own description, Documentation/driver-api/early-userspace/buffer-format.rst:
a header of ASCII hexadecimal fields, the name, the data, each padded to 4 bytes. The archive of the same
entries is the same bytes, always: no clock, no inode numbers of the host.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class Directory:
    """A directory; the ones above it come earlier in the archive."""

    path: str
    permissions: int = 0o755


@dataclass(frozen=True)
class File:
    """A regular file with its content."""

    path: str
    content: bytes
    permissions: int = 0o644


@dataclass(frozen=True)
class Symlink:
    """A symbolic link to `target`."""

    path: str
    target: str


@dataclass(frozen=True)
class CharacterDevice:
    """A character device with its numbers (Documentation/admin-guide/devices.txt)."""

    path: str
    major: int
    minor: int
    permissions: int = 0o600


@dataclass(frozen=True)
class Fifo:
    """A named pipe."""

    path: str
    permissions: int = 0o600


Entry = Directory | File | Symlink | CharacterDevice | Fifo


def write_archive(entries: Iterable[Entry]) -> bytes:
    """The archive of `entries`, in their order, all owned by root, dated 1970.

    Raises `ValueError` for a path that is absolute, empty, or leaves the root.
    """
    records = [_record(number, entry) for number, entry in enumerate(entries, start=1)]
    records.append(_fields(0, 0, 1, _TRAILER))
    return b"".join(records)


def _record(number: int, entry: Entry) -> bytes:
    _check_path(entry.path)
    match entry:
        case Directory(path, permissions):
            return _fields(number, stat.S_IFDIR | permissions, 2, path)
        case File(path, content, permissions):
            return _fields(number, stat.S_IFREG | permissions, 1, path, content)
        case Symlink(path, target):
            return _fields(number, stat.S_IFLNK | 0o777, 1, path, target.encode())
        case CharacterDevice(path, major, minor, permissions):
            return _fields(number, stat.S_IFCHR | permissions, 1, path, device=(major, minor))
        case Fifo(path, permissions):
            return _fields(number, stat.S_IFIFO | permissions, 1, path)


def _check_path(path: str) -> None:
    parts = path.split("/")
    if "" in parts or "." in parts or ".." in parts or "\0" in path:
        raise ValueError(f"{path!r} is no path for an archive: it is relative to the root, such as bin/sh")


def _fields(
    number: int, mode: int, links: int, path: str, content: bytes = b"", *, device: tuple[int, int] = (0, 0)
) -> bytes:
    name = path.encode() + b"\0"
    owner = group = modified = checksum = 0
    held_by = (0, 0)
    fields = (
        number, mode, owner, group, links, modified, len(content),
        *held_by, *device, len(name), checksum,
    )  # fmt: skip
    header = _MAGIC + b"".join(b"%08X" % field for field in fields) + name
    return _pad(header) + _pad(content)


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
