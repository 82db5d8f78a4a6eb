"""The FUSE protocol as far as the server speaks it (the kernel's include/uapi/linux/fuse.h, version 7.31)."""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag

MAJOR, MINOR = 7, 31

REQUEST = struct.Struct("<IIQQIIII")
"""Length, operation, number of the request, node, user, group, process, nothing."""

REPLY = struct.Struct("<IiQ")
"""Length, minus the error, number of the request."""

ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")
ENTRY = struct.Struct("<QQQQII")
"""A node, its generation, how long name and attributes are valid; its attributes follow."""

ATTRIBUTES_REPLY = struct.Struct("<QII")
DIRECTORY_ENTRY = struct.Struct("<QQII")
GET_ATTRIBUTES = struct.Struct("<IIQ")
SET_ATTRIBUTES = struct.Struct("<IIQQQQQQIIIIIIII")
OPEN = struct.Struct("<II")
OPENED = struct.Struct("<QII")
CREATE = struct.Struct("<IIII")
MAKE = struct.Struct("<II")
MAKE_NODE = struct.Struct("<IIII")
HANDLE = struct.Struct("<Q")
READ = struct.Struct("<QQIIQII")
WRITE = struct.Struct("<QQIIQII")
WRITTEN = struct.Struct("<II")
RENAME = struct.Struct("<Q")
RENAME_FLAGS = struct.Struct("<QII")
FORGET = struct.Struct("<Q")
FORGET_SOME = struct.Struct("<II")
FORGET_ONE = struct.Struct("<QQ")
ALLOCATE = struct.Struct("<QQQII")
SEEK = struct.Struct("<QQII")
OFFSET = struct.Struct("<Q")
STATISTICS = struct.Struct("<QQQQQIIII24x")
INIT = struct.Struct("<IIII")
INITIALIZED = struct.Struct("<IIIIHHIIHHII24x")


class Operation(IntEnum):
    """What a guest may ask for."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46


class InitFlag(IntFlag):
    """What the server can do."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22


class Valid(IntFlag):
    """What of a SETATTR request is to be looked at, beside the attributes that `Change` names."""

    HANDLE = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
