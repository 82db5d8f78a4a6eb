"""A folder of the host, shared with one guest: what may be done there, whichever protocol asks for it.

The guest's root is whoever runs gasang: that user's files are root's there, and what root makes there is that
user's here. Set-user-ID bits and device nodes do not reach the host.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import IntFlag
from pathlib import Path
from typing import Any, NamedTuple

from gasang.errors import ConfigError
from gasang.folders.nodes import Nodes, checked_name, error, identity_of

MOST_BYTES = 1 << 20
"""Of one request to read or to write."""

MOST_OPEN = 512
"""Files and listings that a guest may have open at a time."""

MOST_LISTED = 256 << 20
"""Bytes of names, each with what it costs us, in all listings that are open."""

_NAME_COST = 64
_PERMISSIONS = 0o1777
_OPEN_FLAGS = os.O_ACCMODE | os.O_TRUNC
_ALWAYS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_KINDS = (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK)
_Place = int | tuple[int, bytes]
"""A file by its descriptor, or by a directory's and its name there."""

_OWN_USER, _OWN_GROUP = os.geteuid(), os.getegid()


class Found(NamedTuple):
    """A file that the guest is told of."""

    number: int
    """Its node's."""

    status: os.stat_result


class Entry(NamedTuple):
    """A file of a listing."""

    offset: int
    """Where the listing goes on behind it."""

    directory: int
    name: bytes
    status: os.stat_result


class Change(IntFlag):
    """Which attributes are set."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    NOW = 1 << 6
    """Both times are the host's."""


ATTRIBUTE_CHANGES = Change.MODE | Change.UID | Change.GID | Change.SIZE | Change.ATIME | Change.MTIME
"""Those have the same bits in both protocols."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """What attributes are to be; times in ns."""

    change: Change
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    atime: int = 0
    mtime: int = 0


class SharedFolder:
    """A folder, by its nodes and by numbers of what is open.

    Raises `OSError` for what the guest is to be told.
    """

    def __init__(self, folder: Path, *, readonly: bool = False) -> None:
        """Raises `ConfigError` if there is no such folder."""
        try:
            self._root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as failure:
            raise ConfigError(f"folder {folder}: {failure.strerror}") from failure
        self._readonly = readonly
        self.nodes = Nodes(self._root)
        self._files: dict[int, tuple[int, int]] = {}
        """Descriptor and node, by handle."""

        self._listings: dict[int, tuple[int, list[bytes]]] = {}
        self._listed = 0
        self._next_handle = 0

    def close(self) -> None:
        """Close all files."""
        if self._root >= 0:
            self.forget_all()
            os.close(self._root)
            self._root = -1

    def forget_all(self) -> None:
        """As if the guest had never seen it."""
        for descriptor, _ in self._files.values():
            os.close(descriptor)
        self._files.clear()
        self._listings.clear()
        self._listed = 0
        self.nodes.forget_all()

    def _to_be_written(self) -> None:
        if self._readonly:
            raise error(errno.EROFS)

    # Names.

    def look_up(self, parent: int, name: bytes) -> Found:
        """The file of that name, which the guest knows from now on."""
        directory = self.nodes.directory(parent)
        return self.told(parent, name, os.stat(checked_name(name), dir_fd=directory, follow_symlinks=False))

    def told(self, parent: int, name: bytes, status: os.stat_result) -> Found:
        """The guest is told of a file that was found there."""
        return Found(self.nodes.found(parent, name, status).number, status)

    def make_directory(self, parent: int, name: bytes, mode: int) -> Found:
        """Make a directory."""
        self._to_be_written()
        os.mkdir(checked_name(name), mode & _PERMISSIONS, dir_fd=self.nodes.directory(parent))
        return self._made(parent, name, mode)

    def make_node(self, parent: int, name: bytes, mode: int) -> Found:
        """Make a file, a pipe, or a socket's name."""
        self._to_be_written()
        if stat.S_IFMT(mode) not in _KINDS:
            raise error(errno.EPERM)
        kind = stat.S_IFMT(mode) | mode & _PERMISSIONS
        os.mknod(checked_name(name), kind, dir_fd=self.nodes.directory(parent))
        return self._made(parent, name, mode)

    def make_link(self, parent: int, name: bytes, target: bytes) -> Found:
        """Make a symbolic link, which may say anything: the host never follows it."""
        self._to_be_written()
        os.symlink(target, checked_name(name), dir_fd=self.nodes.directory(parent))
        return self.look_up(parent, name)

    def read_link(self, node: int) -> bytes:
        """What a symbolic link says."""
        directory, name, _ = self.nodes.place(node)
        return os.readlink(name, dir_fd=directory)

    def link(self, source: int, parent: int, name: bytes) -> Found:
        """Give a file one more name."""
        self._to_be_written()
        directory, old, _ = self.nodes.place(source)
        target = self.nodes.directory(parent)
        os.link(old, checked_name(name), src_dir_fd=directory, dst_dir_fd=target, follow_symlinks=False)
        return self.look_up(parent, name)

    def remove(self, parent: int, name: bytes, *, directory: bool) -> None:
        """Remove a file's name, or a directory."""
        self._to_be_written()
        where = self.nodes.directory(parent)
        status = os.stat(checked_name(name), dir_fd=where, follow_symlinks=False)
        remove: Callable[..., None] = os.rmdir if directory else os.unlink
        remove(name, dir_fd=where)
        self.nodes.removed(parent, name, status)

    def rename(self, before: tuple[int, bytes], after: tuple[int, bytes]) -> None:
        """Give what has one name another, each a directory's node and a name in it."""
        self._to_be_written()
        (source, old), (target, new) = before, after
        checked_name(old), checked_name(new)
        from_directory, to_directory = self.nodes.directory(source), self.nodes.directory(target)
        status = os.stat(old, dir_fd=from_directory, follow_symlinks=False)
        try:
            replaced = os.stat(new, dir_fd=to_directory, follow_symlinks=False)
        except FileNotFoundError:
            replaced = None
        os.rename(old, new, src_dir_fd=from_directory, dst_dir_fd=to_directory)
        if replaced is not None and identity_of(replaced) == identity_of(status):
            return  # Two names of one file: both stay (rename(2)).
        self.nodes.moved(before, after, status)
        if replaced is not None:
            self.nodes.removed(target, new, replaced)

    def _made(self, parent: int, name: bytes, mode: int) -> Found:
        """What was just made; our own umask is not the guest's business."""
        directory = self.nodes.directory(parent)
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_IMODE(status.st_mode) != mode & _PERMISSIONS:
            _change_mode((directory, name), mode)
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        return self.told(parent, name, status)

    # Attributes.

    def status(self, node: int, handle: int | None = None) -> os.stat_result:
        """What is known of a file, by its open handle if there is one."""
        if handle is not None:
            return os.fstat(self.file(handle))
        try:
            return self.nodes.place(node)[2]
        except OSError as failure:
            return os.fstat(self._open_file_of(node, failure))

    def set_attributes(self, node: int, wanted: Attributes, handle: int | None = None) -> os.stat_result:
        """Change a file's attributes; its size by its open handle if there is one."""
        self._to_be_written()
        try:
            directory, name, status = self.nodes.place(node)
        except OSError as failure:
            descriptor = self._open_file_of(node, failure)
            _set_attributes(descriptor, os.fstat(descriptor), wanted)
            return os.fstat(descriptor)
        if handle is not None and Change.SIZE in wanted.change:
            os.truncate(self.file(handle), wanted.size)
            wanted = replace(wanted, change=wanted.change & ~Change.SIZE)
        _set_attributes((directory, name), status, wanted)
        return os.stat(name, dir_fd=directory, follow_symlinks=False)

    def _open_file_of(self, node: int, failure: OSError) -> int:
        """The descriptor of an open file that has no name any more; raises `failure` if there is none."""
        if failure.errno == errno.ESTALE:
            for descriptor, opened in self._files.values():
                if opened == node:
                    return descriptor
        raise failure

    def statistics(self) -> os.statvfs_result:
        """Of the file system that the folder is on."""
        return os.fstatvfs(self._root)

    # Files.

    def open(self, node: int, flags: int) -> int:
        """The handle of a regular file, open from now on."""
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            self._to_be_written()
        directory, name, _ = self.nodes.place(node)
        handle = self._new_handle()
        self._files[handle] = _open_regular(name, flags & _OPEN_FLAGS, directory), node
        return handle

    def create(self, parent: int, name: bytes, flags: int, mode: int) -> tuple[Found, int]:
        """A regular file that is made if there is none, and its handle."""
        self._to_be_written()
        handle = self._new_handle()
        wanted = flags & (_OPEN_FLAGS | os.O_EXCL) | os.O_CREAT
        directory = self.nodes.directory(parent)
        descriptor = _open_regular(checked_name(name), wanted, directory, mode & _PERMISSIONS)
        try:
            found = self._made(parent, name, mode)
        except OSError:
            os.close(descriptor)
            raise
        self._files[handle] = descriptor, found.number
        return found, handle

    def file(self, handle: int, *, writing: bool = False) -> int:
        """The descriptor of an open file."""
        if writing:
            self._to_be_written()
        if handle not in self._files:
            raise error(errno.EBADF)
        return self._files[handle][0]

    def release(self, handle: int) -> None:
        """Close a file or a listing, if it is open."""
        if handle in self._listings:
            self._listed -= _cost(self._listings.pop(handle)[1])
        if handle in self._files:
            os.close(self._files.pop(handle)[0])

    def allocate(self, handle: int, offset: int, length: int) -> None:
        """Have room for so many bytes of an open file."""
        os.posix_fallocate(self.file(handle, writing=True), offset, length)

    def _new_handle(self) -> int:
        """The number of what is about to be opened."""
        if len(self._files) + len(self._listings) >= MOST_OPEN:
            raise error(errno.ENFILE)
        self._next_handle += 1
        return self._next_handle

    # Directories.

    def open_listing(self, node: int) -> int:
        """The handle of a listing of a directory."""
        self.nodes.directory(node)
        handle = self._new_handle()
        self._listings[handle] = (node, [])
        return handle

    def entries(self, handle: int, offset: int) -> Iterator[Entry]:
        """What a listing goes on with; the names are read when it begins, those that are gone left out."""
        node, names = self._listed_names(handle, offset)
        directory = self.nodes.directory(node)
        for index in range(min(offset, len(names)), len(names)):
            name = names[index]
            try:
                # What is above the folder is not said.
                inside = name if name != b".." else b"."
                status = os.stat(inside, dir_fd=directory, follow_symlinks=False)
            except OSError:
                continue
            yield Entry(index + 1, node, name, status)

    def _listed_names(self, handle: int, offset: int) -> tuple[int, list[bytes]]:
        """The directory's node, and the names in it."""
        if handle not in self._listings:
            raise error(errno.EBADF)
        node, names = self._listings[handle]
        if offset == 0:
            self._listed -= _cost(names)
            names = [b".", b"..", *_names_in(self.nodes.directory(node))]
            self._listings[handle] = node, []
            if self._listed + _cost(names) > MOST_LISTED:
                raise error(errno.ENFILE)
            self._listings[handle] = node, names
            self._listed += _cost(names)
        return node, names

    def sync_directory(self, node: int) -> None:
        """Have a directory's names on the disk."""
        descriptor = os.open(b".", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.nodes.directory(node))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def owner(status: os.stat_result) -> tuple[int, int]:
    """User and group of a file as the guest sees them."""
    user = 0 if status.st_uid == _OWN_USER else status.st_uid
    return user, 0 if status.st_gid == _OWN_GROUP else status.st_gid


def _cost(names: list[bytes]) -> int:
    return sum(map(len, names)) + _NAME_COST * len(names)


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


def _set_attributes(file: _Place, status: os.stat_result, wanted: Attributes) -> None:
    change = wanted.change
    place: dict[str, Any] = {}
    target: int | bytes
    if isinstance(file, int):
        target = file
    else:
        directory, target = file
        place = {"dir_fd": directory, "follow_symlinks": False}
    if change & (Change.UID | Change.GID):
        user = (wanted.uid or _OWN_USER) if Change.UID in change else -1
        group = (wanted.gid or _OWN_GROUP) if Change.GID in change else -1
        os.chown(target, user, group, **place)
    if Change.MODE in change:
        _change_mode(file, wanted.mode)
    if Change.SIZE in change:
        _truncate(file, wanted.size)
    if Change.NOW in change:
        os.utime(target, **place)
    elif change & (Change.ATIME | Change.MTIME):
        accessed = wanted.atime if Change.ATIME in change else status.st_atime_ns
        modified = wanted.mtime if Change.MTIME in change else status.st_mtime_ns
        os.utime(target, ns=(accessed, modified), **place)


def _truncate(file: _Place, size: int) -> None:
    if isinstance(file, int):
        os.truncate(file, size)
        return
    directory, name = file
    descriptor = _open_regular(name, os.O_WRONLY, directory)
    try:
        os.truncate(descriptor, size)
    finally:
        os.close(descriptor)


def _change_mode(file: _Place, mode: int) -> None:
    """chmod(2) follows links; what /proc has of a descriptor of the file itself leads to that file."""
    if isinstance(file, int):
        os.chmod(file, mode & _PERMISSIONS)
        return
    directory, name = file
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if stat.S_ISLNK(os.fstat(descriptor).st_mode):
            raise error(errno.EOPNOTSUPP)
        os.chmod(f"/proc/self/fd/{descriptor}", mode & _PERMISSIONS)
    finally:
        os.close(descriptor)
