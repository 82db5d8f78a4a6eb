"""A shared folder, served by the FUSE protocol (the kernel's include/uapi/linux/fuse.h)."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable

from gasang.folders import fuse_messages as messages
from gasang.folders.fuse_messages import InitFlag, Operation, Valid
from gasang.folders.nodes import checked_name, error
from gasang.folders.shared import (
    ATTRIBUTE_CHANGES,
    MOST_BYTES,
    Attributes,
    Change,
    Entry,
    Found,
    SharedFolder,
    owner,
)

_PAGES = 256
_VALID_SECONDS = 1
_ABILITIES = InitFlag.ASYNC_READ | InitFlag.ATOMIC_O_TRUNC | InitFlag.BIG_WRITES | InitFlag.DO_READDIRPLUS
_ABILITIES |= InitFlag.READDIRPLUS_AUTO | InitFlag.PARALLEL_DIROPS | InitFlag.MAX_PAGES


class FuseServer:
    """Answers requests, one at a time. Raises `OSError` for what the guest is to be told."""

    def __init__(self, folder: SharedFolder) -> None:
        self._folder = folder
        self.used = False
        self._answers: dict[int, Callable[[int, bytes], bytes]] = {
            Operation.LOOKUP: lambda node, body: _entry(folder.look_up(node, _name(body))),
            Operation.GETATTR: self._getattr,
            Operation.SETATTR: self._setattr,
            Operation.READLINK: lambda node, _body: folder.read_link(node),
            Operation.SYMLINK: self._symlink,
            Operation.MKNOD: self._mknod,
            Operation.MKDIR: self._mkdir,
            Operation.UNLINK: lambda node, body: self._remove(node, body, directory=False),
            Operation.RMDIR: lambda node, body: self._remove(node, body, directory=True),
            Operation.RENAME: lambda node, body: self._rename(node, body, messages.RENAME),
            Operation.RENAME2: lambda node, body: self._rename(node, body, messages.RENAME_FLAGS),
            Operation.LINK: self._link,
            Operation.OPEN: self._open,
            Operation.CREATE: self._create,
            Operation.STATFS: self._statfs,
            Operation.RELEASE: self._release,
            Operation.FLUSH: lambda _node, _body: b"",
            Operation.FSYNC: self._fsync,
            Operation.FSYNCDIR: self._fsyncdir,
            Operation.OPENDIR: lambda node, _body: messages.OPENED.pack(folder.open_listing(node), 0, 0),
            Operation.READDIR: lambda node, body: self._readdir(node, body, plus=False),
            Operation.READDIRPLUS: lambda node, body: self._readdir(node, body, plus=True),
            Operation.RELEASEDIR: self._release,
            Operation.FALLOCATE: self._fallocate,
            Operation.LSEEK: self._lseek,
            Operation.INIT: self._init,
            Operation.DESTROY: self._destroy,
        }

    def answer(self, operation: int, node: int, body: bytes) -> bytes:
        """What a request is answered with, but for READ and WRITE, whose bytes pass by `file`."""
        self._folder.nodes.tidy()
        answer = self._answers.get(operation)
        if answer is None:
            raise error(errno.ENOSYS)
        try:
            return answer(node, body)
        except struct.error:
            raise error(errno.EINVAL) from None

    def file(self, handle: int, *, writing: bool = False) -> int:
        """The descriptor of an open file."""
        return self._folder.file(handle, writing=writing)

    def forget(self, operation: int, node: int, body: bytes) -> None:
        """The guest forgets nodes; that has no answer, whatever it says."""
        nodes = self._folder.nodes
        if operation == Operation.FORGET and len(body) >= messages.FORGET.size:
            nodes.forget(node, *messages.FORGET.unpack_from(body))
        elif operation == Operation.BATCH_FORGET and len(body) >= messages.FORGET_SOME.size:
            whole = (len(body) - messages.FORGET_SOME.size) // messages.FORGET_ONE.size
            count = min(messages.FORGET_SOME.unpack_from(body)[0], whole)
            for index in range(count):
                at = messages.FORGET_SOME.size + index * messages.FORGET_ONE.size
                nodes.forget(*messages.FORGET_ONE.unpack_from(body, at))

    def close(self) -> None:
        """Close all files."""
        self._folder.close()

    def _init(self, _node: int, body: bytes) -> bytes:
        major, _minor, readahead, flags = messages.INIT.unpack_from(body)
        self._folder.forget_all()
        self.used = True
        if major < messages.MAJOR:
            raise error(errno.EPROTO)
        able, version = flags & _ABILITIES, (messages.MAJOR, messages.MINOR)
        return messages.INITIALIZED.pack(*version, readahead, able, 0, 0, MOST_BYTES, 1, _PAGES, 0, 0, 0)

    def _destroy(self, _node: int, _body: bytes) -> bytes:
        self._folder.forget_all()
        self.used = False
        return b""

    # Names.

    def _mkdir(self, node: int, body: bytes) -> bytes:
        mode, _umask = messages.MAKE.unpack_from(body)
        return _entry(self._folder.make_directory(node, _name(body[messages.MAKE.size :]), mode))

    def _mknod(self, node: int, body: bytes) -> bytes:
        mode, *_ = messages.MAKE_NODE.unpack_from(body)
        return _entry(self._folder.make_node(node, _name(body[messages.MAKE_NODE.size :]), mode))

    def _symlink(self, node: int, body: bytes) -> bytes:
        name, target, *_ = [*body.split(b"\0"), b"", b""]
        return _entry(self._folder.make_link(node, name, target))

    def _link(self, node: int, body: bytes) -> bytes:
        (source,) = messages.HANDLE.unpack_from(body)
        return _entry(self._folder.link(source, node, _name(body[messages.HANDLE.size :])))

    def _remove(self, node: int, body: bytes, *, directory: bool) -> bytes:
        self._folder.remove(node, _name(body), directory=directory)
        return b""

    def _rename(self, node: int, body: bytes, form: struct.Struct) -> bytes:
        target, *more = form.unpack_from(body)
        old, new, *_ = [*body[form.size :].split(b"\0"), b"", b""]
        if any(more):
            raise error(errno.EINVAL)  # to be tried without flags
        self._folder.rename((node, old), (target, new))
        return b""

    # Attributes.

    def _getattr(self, node: int, body: bytes) -> bytes:
        flags, _, handle = messages.GET_ATTRIBUTES.unpack_from(body)
        return _told_attributes(self._folder.status(node, handle if flags & 1 else None))

    def _setattr(self, node: int, body: bytes) -> bytes:
        (valid, _, handle, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _) = (
            messages.SET_ATTRIBUTES.unpack_from(body)
        )
        change = Change(valid & ATTRIBUTE_CHANGES)
        if valid & (Valid.ATIME_NOW | Valid.MTIME_NOW):
            change |= Change.NOW
        accessed, modified = atime * 10**9 + atime_ns, mtime * 10**9 + mtime_ns
        wanted = Attributes(change, mode, uid, gid, size, accessed, modified)
        return _told_attributes(
            self._folder.set_attributes(node, wanted, handle if valid & Valid.HANDLE else None)
        )

    def _statfs(self, _node: int, _body: bytes) -> bytes:
        found = self._folder.statistics()
        return messages.STATISTICS.pack(
            found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree,
            found.f_bsize, found.f_namemax, found.f_frsize, 0,
        )  # fmt: skip

    # Files.

    def _open(self, node: int, body: bytes) -> bytes:
        flags, _ = messages.OPEN.unpack_from(body)
        return messages.OPENED.pack(self._folder.open(node, flags), 0, 0)

    def _create(self, node: int, body: bytes) -> bytes:
        flags, mode, _, _ = messages.CREATE.unpack_from(body)
        found, handle = self._folder.create(node, _name(body[messages.CREATE.size :]), flags, mode)
        return _entry(found) + messages.OPENED.pack(handle, 0, 0)

    def _release(self, _node: int, body: bytes) -> bytes:
        self._folder.release(*messages.HANDLE.unpack_from(body))
        return b""

    def _fsync(self, _node: int, body: bytes) -> bytes:
        os.fsync(self.file(*messages.HANDLE.unpack_from(body)))
        return b""

    def _fsyncdir(self, node: int, _body: bytes) -> bytes:
        self._folder.sync_directory(node)
        return b""

    def _fallocate(self, _node: int, body: bytes) -> bytes:
        handle, offset, length, mode, _ = messages.ALLOCATE.unpack_from(body)
        if mode or max(offset, length) >> 63:
            raise error(errno.EOPNOTSUPP)
        self._folder.allocate(handle, offset, length)
        return b""

    def _lseek(self, _node: int, body: bytes) -> bytes:
        handle, offset, whence, _ = messages.SEEK.unpack_from(body)
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE) or offset >> 63:
            raise error(errno.EINVAL)
        return messages.OFFSET.pack(os.lseek(self.file(handle), offset, whence))

    # Directories.

    def _readdir(self, _node: int, body: bytes, *, plus: bool) -> bytes:
        handle, offset, size, *_ = messages.READ.unpack_from(body)
        reply, size = bytearray(), min(size, MOST_BYTES)
        for entry in self._folder.entries(handle, offset):
            length = messages.DIRECTORY_ENTRY.size + len(entry.name)
            padded = (length + 7 & ~7) + (_ENTRY_SIZE if plus else 0)
            if len(reply) + padded > size:
                break
            start = len(reply)
            if plus:
                reply += self._listed(entry)
            status, kind = entry.status, stat.S_IFMT(entry.status.st_mode) >> 12
            reply += messages.DIRECTORY_ENTRY.pack(status.st_ino, entry.offset, len(entry.name), kind)
            reply += entry.name
            reply += bytes(start + padded - len(reply))
        return bytes(reply)

    def _listed(self, entry: Entry) -> bytes:
        """The guest is told of what it lists, but for the directory itself and the one above."""
        if entry.name in (b".", b".."):
            return _NO_ENTRY + _attributes(entry.status)
        return _entry(self._folder.told(entry.directory, entry.name, entry.status))


_ENTRY_SIZE = messages.ENTRY.size + messages.ATTRIBUTES.size
_NO_ENTRY = bytes(messages.ENTRY.size)
_WORD = (1 << 64) - 1


def _name(body: bytes) -> bytes:
    return checked_name(body.partition(b"\0")[0])


def _entry(found: Found) -> bytes:
    head = messages.ENTRY.pack(found.number, 0, _VALID_SECONDS, _VALID_SECONDS, 0, 0)
    return head + _attributes(found.status)


def _told_attributes(status: os.stat_result) -> bytes:
    return messages.ATTRIBUTES_REPLY.pack(_VALID_SECONDS, 0, 0) + _attributes(status)


def _attributes(status: os.stat_result) -> bytes:
    times = (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)
    return messages.ATTRIBUTES.pack(
        status.st_ino,
        status.st_size,
        status.st_blocks,
        *(time // 10**9 & _WORD for time in times),
        *(time % 10**9 for time in times),
        status.st_mode,
        status.st_nlink,
        *owner(status),
        0,
        status.st_blksize,
        0,
    )
