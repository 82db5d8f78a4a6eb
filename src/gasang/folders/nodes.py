"""What a guest knows of a folder: nodes, and how to get from each to its file without leaving the folder."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field

ROOT = 1
"""The node of the folder itself."""

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_OPEN = 64
"""Directories that are kept open, to be quick."""

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)
"""What says that a name is no longer that of the file: other errors say nothing about it."""

MOST_NODES = 1 << 20
"""What a guest may know at a time: it forgets when it is told that there are too many."""


def error(number: int) -> OSError:
    """An error that the guest is told."""
    return OSError(number, os.strerror(number))


@dataclass(slots=True)
class Node:
    """A file by its identity, and where it was found."""

    number: int
    identity: tuple[int, int, int]
    """Device, inode, kind."""

    names: dict[tuple[int, bytes], None] = field(default_factory=dict)
    """Node of the directory and name, the last one the newest."""

    known: int = 0
    """How often the guest was told of it."""

    inside: int = 0
    """Names in it that nodes are known by: those are found by way of it."""

    def newest_name(self) -> tuple[int, bytes]:
        """Where it was found last. Raises `OSError` if no name of it is known any more."""
        if not self.names:
            raise error(errno.ESTALE)
        return next(reversed(self.names))


class Nodes:
    """The nodes of one folder. Raises `OSError` for what the guest is to be told."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._open: dict[int, int] = {}
        self.forget_all()

    def __len__(self) -> int:
        """How many the guest knows, or knows others by; the folder is one."""
        return len(self._nodes)

    def forget_all(self) -> None:
        """Know the folder alone."""
        self._next = ROOT
        self._nodes: dict[int, Node] = {ROOT: Node(ROOT, identity_of(os.stat(self._root)))}
        self._by_identity: dict[tuple[int, int, int], Node] = {}
        self._close_directories(0)

    def tidy(self) -> None:
        """Between requests: close directories that are not used often."""
        self._close_directories(_MOST_OPEN)

    def directory(self, number: int) -> int:
        """A descriptor of a directory, which is not the caller's."""
        if number == ROOT:
            return self._root
        known = self._open.pop(number, None)
        if known is not None:
            self._open[number] = known  # the last one that was used
            return known
        while (descriptor := self._walk(self._way_to(number))) is None:
            pass  # There is a name fewer to try.
        self._open[number] = descriptor
        return descriptor

    def place(self, number: int) -> tuple[int, bytes, os.stat_result]:
        """Where a file is now: a directory's descriptor, a name in it, and what is known of the file."""
        if number == ROOT:
            return self._root, b".", os.stat(self._root)
        node = self._node(number)
        while True:
            parent, name = node.newest_name()
            try:
                directory = self.directory(parent)
                found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            except OSError as failure:
                if failure.errno not in _GONE:
                    raise
            else:
                if identity_of(found) == node.identity:
                    return directory, name, found
            self._drop_name(node, (parent, name))

    def name_of(self, number: int, wanted: tuple[int, bytes] | None = None) -> tuple[int, bytes]:
        """A directory and a name there that a node has: the one wanted, or else the newest. The folder is in
        itself."""
        if number == ROOT:
            return ROOT, b"."
        node = self._node(number)
        return wanted if wanted in node.names else node.newest_name()

    def hold(self, number: int) -> None:
        """The guest is told of a node once more."""
        self._node(number).known += 1

    def found(self, parent: int, name: bytes, status: os.stat_result) -> Node:
        """The guest is told of a file that was found there."""
        identity = identity_of(status)
        node = self._by_identity.get(identity)
        if node is None:
            if len(self._nodes) >= MOST_NODES:
                raise error(errno.ENFILE)
            self._next += 1
            node = Node(self._next, identity)
            self._nodes[node.number] = self._by_identity[identity] = node
        self._add_name(node, (parent, name))
        node.known += 1
        return node

    def forget(self, number: int, times: int) -> None:
        """The guest forgets a node so many times."""
        node = self._nodes.get(number)
        if node is None or number == ROOT:
            return
        node.known = max(0, node.known - times)
        self._let_go(node)

    def removed(self, parent: int, name: bytes, status: os.stat_result) -> None:
        """A name is gone. If it was the file's last, another file may have its inode soon."""
        node = self._by_identity.get(identity_of(status))
        if node is not None:
            self._drop_name(node, (parent, name))
            if not node.names:
                self._lose_identity(node)

    def moved(self, before: tuple[int, bytes], after: tuple[int, bytes], status: os.stat_result) -> None:
        """A file has another name."""
        node = self._by_identity.get(identity_of(status))
        if node is not None:
            self._add_name(node, after)
            self._drop_name(node, before)

    def _node(self, number: int) -> Node:
        node = self._nodes.get(number)
        if node is None:
            raise error(errno.ESTALE)
        return node

    def _add_name(self, node: Node, name: tuple[int, bytes]) -> None:
        """A name that is the newest from now on."""
        if name not in node.names:
            self._node(name[0]).inside += 1
        node.names.pop(name, None)
        node.names[name] = None

    def _drop_name(self, node: Node, name: tuple[int, bytes]) -> None:
        if name in node.names:
            del node.names[name]
            self._is_left(name[0])

    def _is_left(self, number: int) -> None:
        directory = self._node(number)
        directory.inside -= 1
        self._let_go(directory)

    def _let_go(self, node: Node) -> None:
        """A node that the guest does not know, and by way of which it knows none, is no more."""
        unneeded = [node]
        while unneeded:
            node = unneeded.pop()
            is_needed = node.number == ROOT or node.known or node.inside
            if is_needed or self._nodes.pop(node.number, None) is None:
                continue
            self._lose_identity(node)
            descriptor = self._open.pop(node.number, None)
            if descriptor is not None:
                os.close(descriptor)
            for number, _ in node.names:
                directory = self._node(number)
                directory.inside -= 1
                unneeded.append(directory)

    def _lose_identity(self, node: Node) -> None:
        if self._by_identity.get(node.identity) is node:
            del self._by_identity[node.identity]

    def _way_to(self, number: int) -> list[Node]:
        """The directories to walk through to a directory, itself the last, from one that is open."""
        way: dict[int, Node] = {}
        while number != ROOT and number not in self._open:
            node = self._node(number)
            if number in way:  # Names that are outdated may lead round and round.
                raise error(errno.ESTALE)
            if not stat.S_ISDIR(node.identity[2]):
                raise error(errno.ENOTDIR)
            way[number] = node
            number, _ = node.newest_name()
        return list(reversed(way.values()))

    def _walk(self, way: list[Node]) -> int | None:
        """A descriptor of the last directory of a way, which may be long: no more than two are open at once.
        None if a name on it was another file's, and is forgotten."""
        directory, is_ours = self._open.get(way[0].newest_name()[0], self._root), False
        for node in way:
            try:
                following = _open_directory(node, directory)
            finally:
                if is_ours:
                    os.close(directory)
            if following is None:
                self._drop_name(node, node.newest_name())
                return None
            directory, is_ours = following, True
        return directory

    def _close_directories(self, most: int) -> None:
        while len(self._open) > most:
            os.close(self._open.pop(next(iter(self._open))))


def _open_directory(node: Node, parent: int) -> int | None:
    """A descriptor of a directory by its newest name; None if another file has that."""
    try:
        descriptor = os.open(node.newest_name()[1], _DIRECTORY, dir_fd=parent)
    except OSError as failure:
        if failure.errno not in _GONE:
            raise
    else:
        if identity_of(os.fstat(descriptor)) == node.identity:
            return descriptor
        os.close(descriptor)
    return None


def identity_of(status: os.stat_result) -> tuple[int, int, int]:
    """What makes a file the same one."""
    return status.st_dev, status.st_ino, stat.S_IFMT(status.st_mode)


def checked_name(name: bytes) -> bytes:
    """A name of one file in a directory. Raises `OSError` for what is none."""
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise error(errno.EINVAL)
    return name
