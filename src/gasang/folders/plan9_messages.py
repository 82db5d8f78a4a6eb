"""The 9P2000.L protocol as far as the server speaks it.

9P2000: the Plan 9 manual, section 5; .L: the kernel's include/net/9p/9p.h and the diod project's protocol.md.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag

VERSION = b"9P2000.L"

HEAD = struct.Struct("<IBH")
"""Of every message: its size with this header, its kind, its tag."""

VERSION_SIZE = struct.Struct("<I")
ERROR = struct.Struct("<I")
ATTACH = struct.Struct("<II")
FID = struct.Struct("<I")
WALK = struct.Struct("<IIH")
COUNT = struct.Struct("<H")
QID = struct.Struct("<BIQ")
"""What a file is told apart by: kind, version, path."""

OPEN = struct.Struct("<II")
OPENED_ROOM = struct.Struct("<I")
CREATE = struct.Struct("<III")
GID = struct.Struct("<I")
MAKE_NODE = struct.Struct("<IIII")
MAKE = struct.Struct("<II")
FLAGS = struct.Struct("<I")
GET_ATTRIBUTES = struct.Struct("<IQ")
ATTRIBUTES = struct.Struct("<QBIQIII15Q")
"""What is valid, a QID, mode, user, group; links, device, size, block size, blocks; access, modification,
change and birth, each in s and ns; generation, data version."""

SET_ATTRIBUTES = struct.Struct("<IIIIIQQQQQ")
STATISTICS = struct.Struct("<IIQQQQQQI")
TRANSFER = struct.Struct("<IQI")
"""Fid, offset, count: of a request to read, to list, or to write, whose bytes follow."""

TRANSFERRED = struct.Struct("<I")
ENTRY = struct.Struct("<BIQQB")
"""A QID, the next entry's offset, a kind of file; the name follows."""

LOCK = struct.Struct("<IBIQQI")
LOCKED = struct.Struct("<B")
GET_LOCK = struct.Struct("<IBQQI")
LOCK_FOUND = struct.Struct("<BQQI")


class Kind(IntEnum):
    """What a guest may ask for; each answer's number is one more."""

    STATFS = 8
    LOPEN = 12
    LCREATE = 14
    SYMLINK = 16
    MKNOD = 18
    RENAME = 20
    READLINK = 22
    GETATTR = 24
    SETATTR = 26
    READDIR = 40
    FSYNC = 50
    LOCK = 52
    GETLOCK = 54
    LINK = 70
    MKDIR = 72
    RENAMEAT = 74
    UNLINKAT = 76
    VERSION = 100
    ATTACH = 104
    FLUSH = 108
    WALK = 110
    READ = 116
    WRITE = 118
    CLUNK = 120
    REMOVE = 122


ANSWER_ERROR = 7
"""The kind of an answer that says why not."""


class Valid(IntFlag):
    """How a SETATTR request sets times, beside the attributes that `Change` names."""

    ATIME_SET = 1 << 7
    MTIME_SET = 1 << 8


BASIC_ATTRIBUTES = 0x7FF
"""All that stat(2) tells."""

REMOVE_DIRECTORY = 0x200
NO_LOCK = 2


class Fields:
    """The fields of a message, one behind the other. Raises `struct.error` where it ends too early."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._at = 0

    def numbers(self, form: struct.Struct) -> tuple[int, ...]:
        """The next numbers."""
        found = form.unpack_from(self._message, self._at)
        self._at += form.size
        return found

    def text(self) -> bytes:
        """The next string: its length, its bytes."""
        (length,) = self.numbers(COUNT)
        self._at += length
        if self._at > len(self._message):
            raise struct.error("a string that ends behind its message")
        return self._message[self._at - length : self._at]


def text(value: bytes) -> bytes:
    """A string of a message."""
    return COUNT.pack(len(value)) + value
