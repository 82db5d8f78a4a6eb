"""A shared folder, served by the 9P2000.L protocol: for kernels that have it, and no virtio-fs.

A fid is a node that the guest holds, and what it has open by it. There is one tree, and no authentication:
the guest is the one client.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from gasang.folders import plan9_messages as messages
from gasang.folders.nodes import ROOT, checked_name, error
from gasang.folders.plan9_messages import Fields, Kind, Valid, text
from gasang.folders.shared import (
    ATTRIBUTE_CHANGES,
    MOST_BYTES,
    Attributes,
    Change,
    Found,
    SharedFolder,
    owner,
)

MOST_FIDS = 1 << 18
MOST_MESSAGE = MOST_BYTES + 4096
"""Of one message, with its header."""

_LEAST_MESSAGE = 4096
_MOST_STEPS = 16
_MAGIC = 0x0102_1997
_DIRECTORY, _LINK = 0x80, 0x02
_WORD = (1 << 64) - 1


@dataclass(slots=True)
class Fid:
    """What the guest has under a number of its own."""

    node: int
    name: tuple[int, bytes] | None = None
    """The directory that it was walked to from last, and the name there."""

    handle: int | None = None
    """Of the open file, or of the listing."""


class Plan9Server:
    """Answers messages, one at a time. Raises `OSError` for what the guest is to be told."""

    def __init__(self, folder: SharedFolder) -> None:
        self._folder = folder
        self._fids: dict[int, Fid] = {}
        self._most = MOST_MESSAGE
        self._devices: list[int] = [folder.status(ROOT).st_dev]
        self._answers: dict[int, Callable[[Fields], bytes]] = {
            Kind.VERSION: self._version,
            Kind.ATTACH: self._attach,
            Kind.FLUSH: lambda _fields: b"",  # What it is about was answered before.
            Kind.WALK: self._walk,
            Kind.CLUNK: self._clunk,
            Kind.STATFS: self._statfs,
            Kind.GETATTR: self._getattr,
            Kind.SETATTR: self._setattr,
            Kind.LOPEN: self._open,
            Kind.LCREATE: self._create,
            Kind.READDIR: self._readdir,
            Kind.FSYNC: self._fsync,
            Kind.LOCK: self._lock,
            Kind.GETLOCK: self._getlock,
            Kind.MKDIR: self._mkdir,
            Kind.MKNOD: self._mknod,
            Kind.SYMLINK: self._symlink,
            Kind.READLINK: lambda fields: text(folder.read_link(self._next_fid(fields).node)),
            Kind.LINK: self._link,
            Kind.RENAME: self._rename,
            Kind.RENAMEAT: self._renameat,
            Kind.UNLINKAT: self._unlinkat,
            Kind.REMOVE: self._remove,
        }

    @property
    def used(self) -> bool:
        """Whether the guest has it mounted."""
        return bool(self._fids)

    def answer(self, kind: int, message: bytes) -> bytes:
        """What a message is answered with, but for READ and WRITE, whose bytes pass by `file`."""
        self._folder.nodes.tidy()
        answer = self._answers.get(kind)
        if answer is None:
            raise error(errno.EOPNOTSUPP)
        try:
            return answer(Fields(message))
        except struct.error:
            raise error(errno.EINVAL) from None

    def file(self, number: int, *, writing: bool = False) -> int:
        """The descriptor of the file that is open by a fid."""
        return self._folder.file(self._handle(number), writing=writing)

    def close(self) -> None:
        """Close all files."""
        self._fids.clear()
        self._folder.close()

    def _version(self, fields: Fields) -> bytes:
        """Begin anew."""
        (most,) = fields.numbers(messages.VERSION_SIZE)
        wanted = fields.text()
        if most < _LEAST_MESSAGE:
            raise error(errno.EMSGSIZE)
        self._fids.clear()
        self._folder.forget_all()
        self._most = min(most, MOST_MESSAGE)
        known = messages.VERSION if wanted == messages.VERSION else b"unknown"
        return messages.VERSION_SIZE.pack(self._most) + text(known)

    # Fids.

    def _attach(self, fields: Fields) -> bytes:
        number, _ = fields.numbers(messages.ATTACH)
        if number in self._fids:
            raise error(errno.EINVAL)
        self._put(number, Fid(ROOT))
        return self._qid(self._folder.status(ROOT))

    def _walk(self, fields: Fields) -> bytes:
        number, new, count = fields.numbers(messages.WALK)
        names = [fields.text() for _ in range(count)] if count <= _MOST_STEPS else []
        fid = self._fid(number)
        if len(names) < count or (new != number and new in self._fids):
            raise error(errno.EINVAL)
        held, qids = self._steps(fid.node, names)
        try:
            if len(qids) == count:
                name = (held[-2], names[-1]) if names else fid.name
                self._put(new, Fid(held[-1], name))
                held.pop()
        finally:
            self._let_go(held)
        return messages.COUNT.pack(len(qids)) + b"".join(qids)

    def _steps(self, node: int, names: list[bytes]) -> tuple[list[int], list[bytes]]:
        """The nodes on a way, each held, with where it begins, and the QIDs of those behind that.

        As far as it goes; raises `OSError` if that is nowhere."""
        self._folder.nodes.hold(node)
        held, qids = [node], []
        try:
            for name in names:
                found = self._step(held[-1], name)
                held.append(found.number)
                qids.append(self._qid(found.status))
        except OSError:
            if not qids:
                self._let_go(held)
                raise
        return held, qids

    def _step(self, node: int, name: bytes) -> Found:
        """A file of a directory, or the directory above, held once."""
        if name != b"..":
            return self._folder.look_up(node, name)
        above, _ = self._folder.nodes.name_of(node)
        found = Found(above, self._folder.status(above))
        self._folder.nodes.hold(above)
        return found

    def _let_go(self, nodes: list[int]) -> None:
        for node in nodes:
            self._folder.nodes.forget(node, 1)

    def _put(self, number: int, fid: Fid) -> None:
        """A fid, whose node is held, is that number's from now on."""
        if number in self._fids:
            self._drop(number)
        elif len(self._fids) >= MOST_FIDS:
            raise error(errno.ENFILE)
        self._fids[number] = fid

    def _drop(self, number: int) -> None:
        fid = self._fids.pop(number, None)
        if fid is None:
            raise error(errno.EBADF)
        if fid.handle is not None:
            self._folder.release(fid.handle)
        self._folder.nodes.forget(fid.node, 1)

    def _fid(self, number: int) -> Fid:
        fid = self._fids.get(number)
        if fid is None:
            raise error(errno.EBADF)
        return fid

    def _next_fid(self, fields: Fields) -> Fid:
        return self._fid(*fields.numbers(messages.FID))

    def _handle(self, number: int) -> int:
        handle = self._fid(number).handle
        if handle is None:
            raise error(errno.EBADF)
        return handle

    def _clunk(self, fields: Fields) -> bytes:
        self._drop(*fields.numbers(messages.FID))
        return b""

    def _qid(self, status: os.stat_result) -> bytes:
        """Its path is the inode; those of file systems mounted inside differ from the folder's own."""
        if status.st_dev not in self._devices:
            self._devices.append(status.st_dev)
        path = status.st_ino ^ self._devices.index(status.st_dev) << 48
        kinds = {stat.S_IFDIR: _DIRECTORY, stat.S_IFLNK: _LINK}
        version = (status.st_mtime_ns ^ status.st_size << 8) & 0xFFFF_FFFF
        return messages.QID.pack(kinds.get(stat.S_IFMT(status.st_mode), 0), version, path & _WORD)

    # Attributes.

    def _getattr(self, fields: Fields) -> bytes:
        number, _ = fields.numbers(messages.GET_ATTRIBUTES)
        status = self._folder.status(self._fid(number).node)
        times = (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns, 0)
        return messages.ATTRIBUTES.pack(
            messages.BASIC_ATTRIBUTES,
            *messages.QID.unpack(self._qid(status)),
            status.st_mode,
            *owner(status),
            status.st_nlink,
            0,
            status.st_size,
            status.st_blksize,
            status.st_blocks,
            *(part & _WORD for each in times for part in divmod(each, 10**9)),
            0,
            0,
        )

    def _setattr(self, fields: Fields) -> bytes:
        number, valid, mode, uid, gid, size, *times = fields.numbers(messages.SET_ATTRIBUTES)
        change = Change(valid & ATTRIBUTE_CHANGES)
        accessed, modified = times[0] * 10**9 + times[1], times[2] * 10**9 + times[3]
        given = {Change.ATIME: Valid.ATIME_SET, Change.MTIME: Valid.MTIME_SET}
        is_now = [time_of in change and not valid & is_set for time_of, is_set in given.items()]
        if all(is_now):
            change |= Change.NOW
        elif any(is_now):
            now = time.time_ns()
            accessed, modified = (now, modified) if is_now[0] else (accessed, now)
        wanted = Attributes(change, mode, uid, gid, size, accessed, modified)
        self._folder.set_attributes(self._fid(number).node, wanted)
        return b""

    def _statfs(self, fields: Fields) -> bytes:
        self._next_fid(fields)
        found = self._folder.statistics()
        return messages.STATISTICS.pack(
            _MAGIC, found.f_bsize, found.f_blocks, found.f_bfree, found.f_bavail,
            found.f_files, found.f_ffree, 0, found.f_namemax,
        )  # fmt: skip

    # Files.

    def _open(self, fields: Fields) -> bytes:
        number, flags = fields.numbers(messages.OPEN)
        fid = self._fid(number)
        if fid.handle is not None:
            raise error(errno.EINVAL)
        status = self._folder.status(fid.node)
        is_directory = stat.S_ISDIR(status.st_mode)
        if is_directory:
            fid.handle = self._folder.open_listing(fid.node)
        else:
            fid.handle = self._folder.open(fid.node, flags)
        return self._qid(status) + messages.OPENED_ROOM.pack(0)

    def _create(self, fields: Fields) -> bytes:
        """The fid of a directory becomes that of an open file in it."""
        (number,) = fields.numbers(messages.FID)
        name = fields.text()
        flags, mode, _ = fields.numbers(messages.CREATE)
        fid = self._fid(number)
        if fid.handle is not None:
            raise error(errno.EINVAL)
        found, handle = self._folder.create(fid.node, name, flags, mode)
        self._folder.nodes.forget(fid.node, 1)
        self._fids[number] = Fid(found.number, (fid.node, name), handle)
        return self._qid(found.status) + messages.OPENED_ROOM.pack(0)

    def _fsync(self, fields: Fields) -> bytes:
        (number,) = fields.numbers(messages.FID)
        fid = self._fid(number)
        if stat.S_ISDIR(self._folder.status(fid.node).st_mode):
            self._folder.sync_directory(fid.node)
        else:
            os.fsync(self.file(number))
        return b""

    def _lock(self, fields: Fields) -> bytes:
        """Always had: the guest's kernel keeps its locks apart by itself, and there is no other client."""
        self._fid(fields.numbers(messages.LOCK)[0])
        return messages.LOCKED.pack(0)

    def _getlock(self, fields: Fields) -> bytes:
        number, _, start, length, process = fields.numbers(messages.GET_LOCK)
        self._fid(number)
        return messages.LOCK_FOUND.pack(messages.NO_LOCK, start, length, process) + text(fields.text())

    # Directories.

    def _readdir(self, fields: Fields) -> bytes:
        number, offset, size = fields.numbers(messages.TRANSFER)
        room = min(size, self._most - messages.HEAD.size - messages.TRANSFERRED.size)
        reply = bytearray()
        for entry in self._folder.entries(self._handle(number), offset):
            if len(reply) + messages.ENTRY.size + messages.COUNT.size + len(entry.name) > room:
                break
            qid = messages.QID.unpack(self._qid(entry.status))
            kind = stat.S_IFMT(entry.status.st_mode) >> 12
            reply += messages.ENTRY.pack(*qid, entry.offset, kind) + text(entry.name)
        return messages.TRANSFERRED.pack(len(reply)) + reply

    def _mkdir(self, fields: Fields) -> bytes:
        node, name = self._place(fields)
        mode, _ = fields.numbers(messages.MAKE)
        return self._made(self._folder.make_directory(node, name, mode))

    def _mknod(self, fields: Fields) -> bytes:
        node, name = self._place(fields)
        mode, *_ = fields.numbers(messages.MAKE_NODE)
        return self._made(self._folder.make_node(node, name, mode))

    def _symlink(self, fields: Fields) -> bytes:
        node, name = self._place(fields)
        return self._made(self._folder.make_link(node, name, fields.text()))

    def _link(self, fields: Fields) -> bytes:
        directory, file = self._next_fid(fields), self._next_fid(fields)
        self._made(self._folder.link(file.node, directory.node, fields.text()))
        return b""

    def _made(self, found: Found) -> bytes:
        """What was made has no fid yet."""
        self._folder.nodes.forget(found.number, 1)
        return self._qid(found.status)

    def _rename(self, fields: Fields) -> bytes:
        fid, target = self._next_fid(fields), self._next_fid(fields)
        after = (target.node, fields.text())
        self._folder.rename(self._name_of(fid), after)
        fid.name = after
        return b""

    def _renameat(self, fields: Fields) -> bytes:
        before = self._place(fields)
        self._folder.rename(before, self._place(fields))
        return b""

    def _unlinkat(self, fields: Fields) -> bytes:
        node, name = self._place(fields)
        (flags,) = fields.numbers(messages.FLAGS)
        self._folder.remove(node, name, directory=bool(flags & messages.REMOVE_DIRECTORY))
        return b""

    def _remove(self, fields: Fields) -> bytes:
        """The fid is gone, whether the file is or not."""
        (number,) = fields.numbers(messages.FID)
        fid = self._fid(number)
        try:
            is_directory = stat.S_ISDIR(self._folder.status(fid.node).st_mode)
            self._folder.remove(*self._name_of(fid), directory=is_directory)
        finally:
            self._drop(number)
        return b""

    def _place(self, fields: Fields) -> tuple[int, bytes]:
        """A directory and a name in it."""
        return self._next_fid(fields).node, checked_name(fields.text())

    def _name_of(self, fid: Fid) -> tuple[int, bytes]:
        """The name that it was walked to by, or else its newest: a file may have others."""
        if fid.node == ROOT:
            raise error(errno.EBUSY)
        return self._folder.nodes.name_of(fid.node, fid.name)
