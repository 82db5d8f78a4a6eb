"""EROFS images, written in one pass: what is in files first, then what stands in inodes.

The format is Linux's fs/erofs/erofs_fs.h and Documentation/filesystems/erofs.rst: blocks of 4096 bytes,
inodes of 64 ("extended") in slots of 32, behind one of which a file's last bytes may stand ("inline").
Nothing is compressed: pages are read as they are. The image of the same tree is the same bytes.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from gasang.errors import RootFilesystemError
from gasang.rootfs.tree import Content, Inode, Tree

BLOCK = 4096
_BLOCK_BITS = 12
_MAGIC = 0xE0F5E1E2
_SUPERBLOCK_AT = 1024
_SUPERBLOCK = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQ24s")
_INODE = struct.Struct("<HHHHQIIIIQII16x")
_DIRENT = struct.Struct("<QHBx")
_SLOT = 32
_EXTENDED, _PLAIN, _INLINE = 1, 0 << 1, 2 << 1
_MOST_INLINE = 2048
"""A file's last bytes that share a block with inodes; more would leave gaps."""

_MOST_HELD = 1024
"""Bytes of a file that are kept in memory until its inode is written."""

_NO_BLOCK = 0xFFFFFFFF
_MOST_BLOCKS = 1 << 31
"""Half of what has a number: the rest is for inodes and directories."""

_CHUNK = 1 << 20
_KINDS = {
    stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFCHR: 3, stat.S_IFBLK: 4,
    stat.S_IFIFO: 5, stat.S_IFSOCK: 6, stat.S_IFLNK: 7,
}  # fmt: skip
_PREFIXES = {"user.": 1, "trusted.": 4, "security.": 6}
_MOST_ATTRIBUTES, _MOST_NAME = 1024, 255


class ErofsWriter:
    """Writes one image to a file that is empty, and can be written anywhere."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._next_block = 1

    def store(self, source: IO[bytes], size: int) -> Content:
        """Keep a file's content, `size` bytes of `source`. Blocks of zeroes take no room. Raises
        `RootFilesystemError` if there is less."""
        if size <= _MOST_HELD:
            return Content(size, held=_exactly(source, size))
        if self._next_block + _blocks(size) > _MOST_BLOCKS:
            raise RootFilesystemError(f"its files are more than {_MOST_BLOCKS * BLOCK} bytes")
        content = Content(size, self._next_block)
        self._file.seek(self._next_block * BLOCK)
        left = size
        while left:
            data = _exactly(source, min(left, _CHUNK))
            if data.count(0) == len(data):
                self._file.seek(len(data), 1)
            else:
                self._file.write(data)
            left -= len(data)
        self._next_block += _blocks(size)
        return content

    def finish(self, tree: Tree) -> None:
        """Write the tree, whose contents were stored here."""
        inodes = [_Placed(inode) for inode in tree.inodes()]
        known = {placed.inode: placed for placed in inodes}
        _count_names(known, tree.root)
        position = _SLOT  # A root in slot 0 could be taken for none.
        for placed in inodes:
            placed.size = (
                _directory_size(placed.inode) if placed.inode.is_directory else placed.inode.content.size
            )
            position = placed.place_at(position)
        start = self._next_block
        self._next_block += _blocks(position)
        for placed in inodes:
            self._write_inode(placed, known, start)
        self._file.truncate(self._next_block * BLOCK)
        self._write_superblock(known[tree.root].slot, len(inodes), start)

    def _write_inode(self, placed: _Placed, known: dict[Inode, _Placed], start: int) -> None:
        inode = placed.inode
        content = _directory(placed, known) if inode.is_directory else inode.content.held
        block, tail = inode.content.block or _NO_BLOCK, content
        if placed.is_inline:
            whole = len(content) // BLOCK * BLOCK
            if whole:
                block = self._put_blocks(content[:whole])
            tail = content[whole:]
        elif content:
            block, tail = self._put_blocks(content), b""
        if stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode):
            block = _device(*inode.device)
        fields = _INODE.pack(
            _EXTENDED | (_INLINE if placed.is_inline else _PLAIN),
            placed.attribute_count, inode.mode, 0, placed.size, block, placed.number,
            inode.uid, inode.gid, max(inode.mtime, 0), 0, placed.names,
        )  # fmt: skip
        self._file.seek(start * BLOCK + placed.position)
        self._file.write(fields + placed.attributes + tail)

    def _put_blocks(self, content: bytes) -> int:
        block = self._next_block
        self._file.seek(block * BLOCK)
        self._file.write(content)
        self._next_block += _blocks(len(content))
        return block

    def _write_superblock(self, root: int, inodes: int, start: int) -> None:
        fields = _SUPERBLOCK.pack(
            _MAGIC, 0, 0, _BLOCK_BITS, 0, root, inodes, 0, 0, self._next_block, start, 0,
            bytes(16), b"gasang", 0, 0, 0, 0, 0, 0, 0, 0, bytes(24),
        )  # fmt: skip
        self._file.seek(_SUPERBLOCK_AT)
        self._file.write(fields)


@dataclass(eq=False, slots=True)
class _Placed:
    """An inode, and where it is to be."""

    inode: Inode
    attributes: bytes = b""
    names: int = 0
    size: int = 0
    position: int = 0
    """In bytes, from the first inode's block on."""

    is_inline: bool = False
    parent: _Placed | None = None

    def __post_init__(self) -> None:
        self.attributes = _attributes(self.inode)

    @property
    def slot(self) -> int:
        return self.position // _SLOT

    @property
    def number(self) -> int:
        """What stat(2) says, for programs with 32 bits."""
        return self.slot & 0xFFFFFFFF

    @property
    def attribute_count(self) -> int:
        return (len(self.attributes) - 12) // 4 + 1 if self.attributes else 0

    def place_at(self, position: int) -> int:
        """Take the next place that fits; return where the one after it begins."""
        head = _INODE.size + len(self.attributes)
        tail = self.size % BLOCK
        is_here = self.inode.is_directory or self.size <= _MOST_HELD
        self.is_inline = is_here and 0 < tail <= _MOST_INLINE
        whole = head + (tail if self.is_inline else 0)
        if self.is_inline and position % BLOCK + whole > BLOCK:
            position = -(-position // BLOCK) * BLOCK
        self.position = position
        return -(-(position + whole) // _SLOT) * _SLOT


def _count_names(known: dict[Inode, _Placed], root: Inode) -> None:
    """How many names each has: a directory's are its own, its "." and the ".." of those in it."""
    known[root].names = 2
    known[root].parent = known[root]
    for placed in known.values():
        for child in placed.inode.entries.values():
            known[child].names += 2 if child.is_directory else 1
            if child.is_directory:
                placed.names += 1
                known[child].parent = placed


def _directory_size(inode: Inode) -> int:
    *whole, last = _directory_blocks(inode)
    return len(whole) * BLOCK + sum(_DIRENT.size + len(name) for name in last)


def _directory_blocks(inode: Inode) -> Iterator[list[bytes]]:
    """The names in a directory, in order, as many together as have room in a block."""
    names: list[bytes] = []
    room = BLOCK
    for name in sorted([*inode.entries, b".", b".."]):
        needed = _DIRENT.size + len(name)
        if needed > room:
            yield names
            names, room = [], BLOCK
        names.append(name)
        room -= needed
    yield names


def _directory(placed: _Placed, known: dict[Inode, _Placed]) -> bytes:
    """A directory's content: in each block its entries, then their names."""
    assert placed.parent is not None, "every directory but the root is in one"
    special = {b".": placed, b"..": placed.parent}
    blocks = []
    for names in _directory_blocks(placed.inode):
        offset, head = _DIRENT.size * len(names), b""
        for name in names:
            child = special.get(name) or known[placed.inode.entries[name]]
            head += _DIRENT.pack(child.slot, offset, _KINDS[stat.S_IFMT(child.inode.mode)])
            offset += len(name)
        blocks.append(head + b"".join(names))
    *whole, last = blocks
    return b"".join(block.ljust(BLOCK, b"\0") for block in whole) + last


def _attributes(inode: Inode) -> bytes:
    """Extended attributes as they stand behind an inode; of kinds that have no number there, nothing."""
    entries = b""
    for whole_name, value in sorted(inode.attributes.items()):
        for prefix, number in _PREFIXES.items():
            name = whole_name.removeprefix(prefix).encode("utf-8", "surrogateescape")
            if whole_name.startswith(prefix):
                if len(name) > _MOST_NAME or len(value) > _MOST_ATTRIBUTES:
                    raise RootFilesystemError("a file has an extended attribute that is too large")
                entry = struct.pack("<BBH", len(name), number, len(value)) + name + value
                entries += entry + bytes(-len(entry) % 4)
    if len(entries) > _MOST_ATTRIBUTES:
        raise RootFilesystemError(f"a file has more than {_MOST_ATTRIBUTES} bytes of extended attributes")
    return bytes(12) + entries if entries else b""


def _device(major: int, minor: int) -> int:
    """Linux's new_encode_dev."""
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def _blocks(size: int) -> int:
    return -(-size // BLOCK)


def _exactly(source: IO[bytes], size: int) -> bytes:
    data = source.read(size)
    if len(data) < size:
        raise RootFilesystemError("a file ends before its end")
    return data
