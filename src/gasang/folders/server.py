"""A folder of the host, served by the FUSE protocol to one guest.

The guest's root is whoever runs gasang: that user's files are root's there, and what root makes there is that
user's here. Set-user-ID bits and device nodes do not reach the host.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from gasang.errors import ConfigError
from gasang.folders import protocol
from gasang.folders.nodes import Nodes, checked_name, error
from gasang.folders.protocol import Change, InitFlag, Operation

MOST_BYTES = 1 << 20
"""Of one READ or WRITE."""

_PAGES = 256
_MOST_HANDLES = 512
_VALID_SECONDS = 1
_PERMISSIONS = 0o1777
_OPEN_FLAGS = os.O_ACCMODE | os.O_TRUNC
_ALWAYS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_KINDS = (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK)
_OWN_USER, _OWN_GROUP = os.geteuid(), os.getegid()
_ABILITIES = InitFlag.ASYNC_READ | InitFlag.ATOMIC_O_TRUNC | InitFlag.BIG_WRITES | InitFlag.DO_READDIRPLUS
_ABILITIES |= InitFlag.READDIRPLUS_AUTO | InitFlag.PARALLEL_DIROPS | InitFlag.MAX_PAGES
_CHANGING = frozenset(
    {
        Operation.SETATTR, Operation.SYMLINK, Operation.MKNOD, Operation.MKDIR, Operation.UNLINK,
        Operation.RMDIR, Operation.RENAME, Operation.RENAME2, Operation.LINK, Operation.WRITE,
        Operation.CREATE, Operation.FALLOCATE,
    }
)  # fmt: skip


class FolderServer:
    """Answers requests, one at a time. Raises `OSError` for what the guest is to be told."""

    def __init__(self, folder: Path, *, readonly: bool = False) -> None:
        """Raises `ConfigError` if there is no such folder."""
        try:
            self._root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as failure:
            raise ConfigError(f"folder {folder}: {failure.strerror}") from failure
        self._readonly = readonly
        self._nodes = Nodes(self._root)
        self._handles: dict[int, int] = {}
        self._listings: dict[int, tuple[int, list[bytes]]] = {}
        self._next_handle = 0
        self.used = False
        self._answers: dict[int, Callable[[int, bytes], bytes]] = {
            Operation.LOOKUP: lambda node, body: self._entry(node, _name(body)),
            Operation.GETATTR: self._getattr,
            Operation.SETATTR: self._setattr,
            Operation.READLINK: self._readlink,
            Operation.SYMLINK: self._symlink,
            Operation.MKNOD: self._mknod,
            Operation.MKDIR: self._mkdir,
            Operation.UNLINK: lambda node, body: self._remove(node, _name(body), os.unlink),
            Operation.RMDIR: lambda node, body: self._remove(node, _name(body), os.rmdir),
            Operation.RENAME: lambda node, body: self._rename(node, body, protocol.RENAME),
            Operation.RENAME2: lambda node, body: self._rename(node, body, protocol.RENAME_FLAGS),
            Operation.LINK: self._link,
            Operation.OPEN: self._open,
            Operation.CREATE: self._create,
            Operation.STATFS: self._statfs,
            Operation.RELEASE: self._release,
            Operation.FLUSH: lambda _node, _body: b"",
            Operation.FSYNC: self._fsync,
            Operation.FSYNCDIR: self._fsyncdir,
            Operation.OPENDIR: self._opendir,
            Operation.READDIR: lambda node, body: self._readdir(node, body, plus=False),
            Operation.READDIRPLUS: lambda node, body: self._readdir(node, body, plus=True),
            Operation.RELEASEDIR: self._releasedir,
            Operation.FALLOCATE: self._fallocate,
            Operation.LSEEK: self._lseek,
            Operation.INIT: self._init,
            Operation.DESTROY: self._destroy,
        }

    def answer(self, operation: int, node: int, body: bytes) -> bytes:
        """What a request is answered with, but for READ and WRITE, whose bytes pass by `file`."""
        self._nodes.tidy()
        if self._readonly and operation in _CHANGING:
            raise error(errno.EROFS)
        answer = self._answers.get(operation)
        if answer is None:
            raise error(errno.ENOSYS)
        try:
            return answer(node, body)
        except struct.error:
            raise error(errno.EINVAL) from None

    def file(self, handle: int, *, writing: bool = False) -> int:
        """The descriptor of an open file."""
        if writing and self._readonly:
            raise error(errno.EROFS)
        descriptor = self._handles.get(handle)
        if descriptor is None:
            raise error(errno.EBADF)
        return descriptor

    def forget(self, operation: int, node: int, body: bytes) -> None:
        """The guest forgets nodes; that has no answer, whatever it says."""
        if operation == Operation.FORGET and len(body) >= protocol.FORGET.size:
            self._nodes.forget(node, *protocol.FORGET.unpack_from(body))
        elif operation == Operation.BATCH_FORGET and len(body) >= protocol.FORGET_SOME.size:
            whole = (len(body) - protocol.FORGET_SOME.size) // protocol.FORGET_ONE.size
            count = min(protocol.FORGET_SOME.unpack_from(body)[0], whole)
            for index in range(count):
                at = protocol.FORGET_SOME.size + index * protocol.FORGET_ONE.size
                self._nodes.forget(*protocol.FORGET_ONE.unpack_from(body, at))

    def close(self) -> None:
        """Close all files."""
        if self._root >= 0:
            self._forget_all()
            os.close(self._root)
            self._root = -1

    def _forget_all(self) -> None:
        for descriptor in self._handles.values():
            os.close(descriptor)
        self._handles.clear()
        self._listings.clear()
        self._nodes.forget_all()
        self.used = False

    def _init(self, _node: int, body: bytes) -> bytes:
        major, _minor, readahead, flags = protocol.INIT.unpack_from(body)
        self._forget_all()
        self.used = True
        if major < protocol.MAJOR:
            raise error(errno.EPROTO)
        able, version = flags & _ABILITIES, (protocol.MAJOR, protocol.MINOR)
        return protocol.INITIALIZED.pack(*version, readahead, able, 0, 0, MOST_BYTES, 1, _PAGES, 0, 0, 0)

    def _destroy(self, _node: int, _body: bytes) -> bytes:
        self._forget_all()
        return b""

    # Names.

    def _entry(self, parent: int, name: bytes) -> bytes:
        status = os.stat(name, dir_fd=self._nodes.directory(parent), follow_symlinks=False)
        return self._told(parent, name, status)

    def _told(self, parent: int, name: bytes, status: os.stat_result) -> bytes:
        node = self._nodes.found(parent, name, status)
        head = protocol.ENTRY.pack(node.number, 0, _VALID_SECONDS, _VALID_SECONDS, 0, 0)
        return head + _attributes(status)

    def _made(self, parent: int, name: bytes, mode: int) -> bytes:
        """The entry of what was just made; our own umask is not the guest's business."""
        directory = self._nodes.directory(parent)
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_IMODE(status.st_mode) != mode & _PERMISSIONS:
            _change_mode(directory, name, mode)
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        return self._told(parent, name, status)

    def _mkdir(self, node: int, body: bytes) -> bytes:
        mode, _umask = protocol.MAKE.unpack_from(body)
        name = _name(body[protocol.MAKE.size :])
        os.mkdir(name, mode & _PERMISSIONS, dir_fd=self._nodes.directory(node))
        return self._made(node, name, mode)

    def _mknod(self, node: int, body: bytes) -> bytes:
        mode, *_ = protocol.MAKE_NODE.unpack_from(body)
        name = _name(body[protocol.MAKE_NODE.size :])
        if stat.S_IFMT(mode) not in _KINDS:
            raise error(errno.EPERM)
        os.mknod(name, stat.S_IFMT(mode) | mode & _PERMISSIONS, dir_fd=self._nodes.directory(node))
        return self._made(node, name, mode)

    def _symlink(self, node: int, body: bytes) -> bytes:
        name, target, *_ = [*body.split(b"\0"), b"", b""]
        os.symlink(target, checked_name(name), dir_fd=self._nodes.directory(node))
        return self._entry(node, name)

    def _readlink(self, node: int, _body: bytes) -> bytes:
        directory, name, _ = self._nodes.place(node)
        return os.readlink(name, dir_fd=directory)

    def _link(self, node: int, body: bytes) -> bytes:
        (source,) = protocol.HANDLE.unpack_from(body)
        name = _name(body[protocol.HANDLE.size :])
        directory, old, _ = self._nodes.place(source)
        target = self._nodes.directory(node)
        os.link(old, name, src_dir_fd=directory, dst_dir_fd=target, follow_symlinks=False)
        return self._entry(node, name)

    def _remove(self, node: int, name: bytes, remove: Callable[..., None]) -> bytes:
        directory = self._nodes.directory(node)
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        remove(name, dir_fd=directory)
        self._nodes.removed(node, name, status)
        return b""

    def _rename(self, node: int, body: bytes, form: struct.Struct) -> bytes:
        target, *more = form.unpack_from(body)
        old, new, *_ = [*body[form.size :].split(b"\0"), b"", b""]
        checked_name(old), checked_name(new)
        if any(more):
            raise error(errno.EINVAL)  # to be tried without flags
        before, after = self._nodes.directory(node), self._nodes.directory(target)
        status = os.stat(old, dir_fd=before, follow_symlinks=False)
        try:
            replaced = os.stat(new, dir_fd=after, follow_symlinks=False)
        except FileNotFoundError:
            replaced = None
        os.rename(old, new, src_dir_fd=before, dst_dir_fd=after)
        if replaced is not None:
            self._nodes.removed(target, new, replaced)
        self._nodes.moved((node, old), (target, new), status)
        return b""

    # Attributes.

    def _getattr(self, node: int, body: bytes) -> bytes:
        flags, _, handle = protocol.GET_ATTRIBUTES.unpack_from(body)
        if flags & 1:
            return _told_attributes(os.fstat(self.file(handle)))
        return _told_attributes(self._nodes.place(node)[2])

    def _setattr(self, node: int, body: bytes) -> bytes:
        (valid, _, handle, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _) = (
            protocol.SET_ATTRIBUTES.unpack_from(body)
        )
        change = Change(valid)
        directory, name, status = self._nodes.place(node)
        if change & (Change.UID | Change.GID):
            user = (uid or _OWN_USER) if Change.UID in change else -1
            group = (gid or _OWN_GROUP) if Change.GID in change else -1
            os.chown(name, user, group, dir_fd=directory, follow_symlinks=False)
        if Change.MODE in change:
            _change_mode(directory, name, mode)
        if Change.SIZE in change:
            if Change.HANDLE in change:
                os.truncate(self.file(handle), size)
            else:
                _truncate(directory, name, size)
        if change & (Change.ATIME | Change.MTIME):
            accessed = atime * 10**9 + atime_ns if Change.ATIME in change else status.st_atime_ns
            modified = mtime * 10**9 + mtime_ns if Change.MTIME in change else status.st_mtime_ns
            if change & (Change.ATIME_NOW | Change.MTIME_NOW):
                os.utime(name, dir_fd=directory, follow_symlinks=False)
            else:
                os.utime(name, ns=(accessed, modified), dir_fd=directory, follow_symlinks=False)
        return _told_attributes(os.stat(name, dir_fd=directory, follow_symlinks=False))

    def _statfs(self, _node: int, _body: bytes) -> bytes:
        found = os.fstatvfs(self._root)
        return protocol.STATISTICS.pack(
            found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree,
            found.f_bsize, found.f_namemax, found.f_frsize, 0,
        )  # fmt: skip

    # Files.

    def _open(self, node: int, body: bytes) -> bytes:
        flags, _ = protocol.OPEN.unpack_from(body)
        if self._readonly and flags & (os.O_ACCMODE | os.O_TRUNC):
            raise error(errno.EROFS)
        directory, name, _ = self._nodes.place(node)
        handle = self._new_handle()
        self._handles[handle] = _open_regular(name, flags & _OPEN_FLAGS, directory)
        return protocol.OPENED.pack(handle, 0, 0)

    def _create(self, node: int, body: bytes) -> bytes:
        flags, mode, _, _ = protocol.CREATE.unpack_from(body)
        name = _name(body[protocol.CREATE.size :])
        handle = self._new_handle()
        wanted = flags & (_OPEN_FLAGS | os.O_EXCL) | os.O_CREAT
        directory = self._nodes.directory(node)
        descriptor = _open_regular(name, wanted, directory, mode & _PERMISSIONS)
        try:
            entry = self._made(node, name, mode)
        except OSError:
            os.close(descriptor)
            raise
        self._handles[handle] = descriptor
        return entry + protocol.OPENED.pack(handle, 0, 0)

    def _new_handle(self) -> int:
        """The number of what is about to be opened."""
        if len(self._handles) + len(self._listings) >= _MOST_HANDLES:
            raise error(errno.ENFILE)
        self._next_handle += 1
        return self._next_handle

    def _release(self, _node: int, body: bytes) -> bytes:
        descriptor = self._handles.pop(protocol.HANDLE.unpack_from(body)[0], None)
        if descriptor is not None:
            os.close(descriptor)
        return b""

    def _fsync(self, _node: int, body: bytes) -> bytes:
        os.fsync(self.file(protocol.HANDLE.unpack_from(body)[0]))
        return b""

    def _fsyncdir(self, node: int, _body: bytes) -> bytes:
        descriptor = os.open(b".", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._nodes.directory(node))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return b""

    def _fallocate(self, _node: int, body: bytes) -> bytes:
        handle, offset, length, mode, _ = protocol.ALLOCATE.unpack_from(body)
        if mode or max(offset, length) >> 63:
            raise error(errno.EOPNOTSUPP)
        os.posix_fallocate(self.file(handle), offset, length)
        return b""

    def _lseek(self, _node: int, body: bytes) -> bytes:
        handle, offset, whence, _ = protocol.SEEK.unpack_from(body)
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE) or offset >> 63:
            raise error(errno.EINVAL)
        return protocol.OFFSET.pack(os.lseek(self.file(handle), offset, whence))

    # Directories.

    def _opendir(self, node: int, _body: bytes) -> bytes:
        self._nodes.directory(node)
        handle = self._new_handle()
        self._listings[handle] = (node, [])
        return protocol.OPENED.pack(handle, 0, 0)

    def _releasedir(self, _node: int, body: bytes) -> bytes:
        self._listings.pop(protocol.HANDLE.unpack_from(body)[0], None)
        return b""

    def _readdir(self, _node: int, body: bytes, *, plus: bool) -> bytes:
        handle, offset, size, *_ = protocol.READ.unpack_from(body)
        if handle not in self._listings:
            raise error(errno.EBADF)
        node, names = self._listings[handle]
        directory = self._nodes.directory(node)
        if offset == 0:
            names = [b".", b"..", *_names_in(directory)]
            self._listings[handle] = (node, names)
        reply = bytearray()
        size = min(size, MOST_BYTES)
        for index in range(min(offset, len(names)), len(names)):
            name = names[index]
            length = protocol.DIRECTORY_ENTRY.size + len(name)
            padded = (length + 7 & ~7) + (_ENTRY_SIZE if plus else 0)
            if len(reply) + padded > size:
                break
            try:
                status = os.stat(name if name != b".." else b".", dir_fd=directory, follow_symlinks=False)
            except OSError:
                continue  # It is gone meanwhile.
            start = len(reply)
            if plus:
                is_self = name in (b".", b"..")
                reply += _NO_ENTRY + _attributes(status) if is_self else self._told(node, name, status)
            kind = stat.S_IFMT(status.st_mode) >> 12
            reply += protocol.DIRECTORY_ENTRY.pack(status.st_ino, index + 1, len(name), kind) + name
            reply += bytes(start + padded - len(reply))
        return bytes(reply)


_ENTRY_SIZE = protocol.ENTRY.size + protocol.ATTRIBUTES.size
_NO_ENTRY = bytes(protocol.ENTRY.size)


def _names_in(directory: int) -> list[bytes]:
    descriptor = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return [os.fsencode(name) for name in os.listdir(descriptor)]
    finally:
        os.close(descriptor)


def _open_regular(name: bytes, flags: int, directory: int, mode: int = 0) -> int:
    """Open a regular file, and nothing that waits for somebody or does something."""
    descriptor = os.open(name, flags | _ALWAYS, mode, dir_fd=directory)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise error(errno.EPERM)
    return descriptor


def _truncate(directory: int, name: bytes, size: int) -> None:
    descriptor = _open_regular(name, os.O_WRONLY, directory)
    try:
        os.truncate(descriptor, size)
    finally:
        os.close(descriptor)


def _change_mode(directory: int, name: bytes, mode: int) -> None:
    """chmod(2) follows links; what /proc has of a descriptor of the file itself leads to that file."""
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if stat.S_ISLNK(os.fstat(descriptor).st_mode):
            raise error(errno.EOPNOTSUPP)
        os.chmod(f"/proc/self/fd/{descriptor}", mode & _PERMISSIONS)
    finally:
        os.close(descriptor)


def _name(body: bytes) -> bytes:
    return checked_name(body.partition(b"\0")[0])


def _told_attributes(status: os.stat_result) -> bytes:
    return protocol.ATTRIBUTES_REPLY.pack(_VALID_SECONDS, 0, 0) + _attributes(status)


def _attributes(status: os.stat_result) -> bytes:
    times = (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)
    return protocol.ATTRIBUTES.pack(
        status.st_ino,
        status.st_size,
        status.st_blocks,
        *(time // 10**9 & _WORD for time in times),
        *(time % 10**9 for time in times),
        status.st_mode,
        status.st_nlink,
        0 if status.st_uid == _OWN_USER else status.st_uid,
        0 if status.st_gid == _OWN_GROUP else status.st_gid,
        0,
        status.st_blksize,
        0,
    )


_WORD = (1 << 64) - 1
