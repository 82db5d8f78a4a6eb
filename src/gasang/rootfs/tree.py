"""A tree of files in memory: what stands in its inodes, and not what is in its files."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gasang.errors import RootFilesystemError

_MOST_LINKS = 40
"""Symbolic links on the way to a file, as in Linux."""

_MOST_NAME = 255


@dataclass(frozen=True, slots=True)
class Content:
    """Where a file's bytes are: in an image, from a block on, or here."""

    size: int
    block: int = 0
    held: bytes = b""


NOTHING = Content(0)


@dataclass(eq=False, slots=True)
class Inode:
    """A file of any kind, which may have several names."""

    mode: int
    """Kind and permissions, as in stat(2)."""

    uid: int = 0
    gid: int = 0
    mtime: int = 0
    """Seconds since 1970."""

    device: tuple[int, int] = (0, 0)
    """Major and minor number of a device node."""

    content: Content = NOTHING
    """Of a regular file; of a symbolic link it is the target."""

    attributes: Mapping[str, bytes] = field(default_factory=dict)
    """Extended attributes by their whole names."""

    entries: dict[bytes, Inode] = field(default_factory=dict)
    """What is in a directory."""

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.mode)


def new_directory() -> Inode:
    """A directory of root's that nothing is known of."""
    return Inode(stat.S_IFDIR | 0o755)


class Tree:
    """A root and what is below; paths are bytes, relative to it, and never lead out of it."""

    def __init__(self) -> None:
        self.root = new_directory()

    def add(self, path: bytes, inode: Inode) -> None:
        """Put a file there, in the place of what was there; a directory keeps what is in it.

        Directories on the way are made. Raises `RootFilesystemError`.
        """
        *way, name = parts_of(path) or [b""]
        if not name:
            self._replace_root(inode)
            return
        directory = self._directory(way, path)
        old = directory.entries.get(name)
        if inode.is_directory and old is not None and old.is_directory:
            inode.entries = old.entries
        directory.entries[name] = inode

    def find(self, path: bytes) -> Inode | None:
        """What is there; symbolic links on the way are followed, and the last one is not."""
        *way, name = parts_of(path) or [b""]
        if not name:
            return self.root
        directory = self._walk(way)
        return None if directory is None else directory.entries.get(name)

    def remove(self, path: bytes) -> None:
        """Take it out, with what is in it, if it is there."""
        *way, name = parts_of(path) or [b""]
        directory = self._walk(way)
        if directory is not None:
            directory.entries.pop(name, None)

    def inodes(self) -> Iterator[Inode]:
        """Each once, a directory before what is in it."""
        seen: set[Inode] = {self.root}
        waiting = [self.root]
        while waiting:
            inode = waiting.pop()
            yield inode
            for name in sorted(inode.entries, reverse=True):
                child = inode.entries[name]
                if child not in seen:
                    seen.add(child)
                    waiting.append(child)

    def _replace_root(self, inode: Inode) -> None:
        if not inode.is_directory:
            raise RootFilesystemError("its root is no directory")
        inode.entries = self.root.entries
        self.root = inode

    def _directory(self, way: list[bytes], path: bytes) -> Inode:
        """The directory at the end of a way, made as far as there is none."""
        found = self._walk(way, make=True)
        if found is None:
            raise RootFilesystemError(f"{path.decode(errors='replace')} is in what is no directory")
        return found

    def _walk(self, way: list[bytes], *, make: bool = False) -> Inode | None:
        """The directory at the end of a way. ".." and links to "/" stop at the root, as in a chroot."""
        stack, left, links = [self.root], list(reversed(way)), 0
        while left:
            name = left.pop()
            if name == b"..":
                stack = stack[:-1] or stack
                continue
            child = stack[-1].entries.get(name)
            if child is None and make:
                child = stack[-1].entries[name] = new_directory()
            if child is None:
                return None
            if child.is_link:
                links += 1
                target = child.content.held
                if links > _MOST_LINKS:
                    return None
                stack = [self.root] if target.startswith(b"/") else stack
                left.extend(part for part in reversed(target.split(b"/")) if part not in (b"", b"."))
            elif child.is_directory:
                stack.append(child)
            else:
                return None
        return stack[-1]


def parts_of(path: bytes) -> list[bytes]:
    """The names that a path in an archive is made of. Raises `RootFilesystemError` if it leads out of it."""
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    shown = path[:100].decode(errors="replace")
    if b".." in parts or b"\0" in path:
        raise RootFilesystemError(f"{shown!r} leads out of the root")
    if any(len(part) > _MOST_NAME for part in parts):
        raise RootFilesystemError(f"{shown}... has a name of more than {_MOST_NAME} bytes")
    return parts
