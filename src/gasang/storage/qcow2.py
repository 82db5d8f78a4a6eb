"""Qcow2 images (QEMU, docs/interop/qcow2.txt): versions 2 and 3, backing files, compressed and zero clusters.

What may be lost. A cluster's data and its count are written at once, the L2 entry that refers to it stays
in memory until the guest flushes: first everything written so far is made durable, then L2 tables are
written and made durable, then the L1 entries of new ones, and only then is given back what nobody refers to
any more. So at every moment each entry in the file refers to clusters that are counted and have their
content: whatever ends this process, or the host, leaves an image in which at worst some clusters are counted
and unused.
"""

from __future__ import annotations

import errno
import os
import zlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from gasang.storage.image import Image
from gasang.storage.qcow2_header import ZSTD, Header
from gasang.storage.qcow2_refcounts import Refcounts, read_table, table_bytes
from gasang.storage.raw import MOST_BUFFERS

_OFFSET = 0x00FFFFFFFFFFFE00
_COPIED, _COMPRESSED, _ZERO = 1 << 63, 1 << 62, 1
_AUTOCLEAR = 88
_TABLES = 64
"""L2 tables in memory."""


class _Run(NamedTuple):
    """Bytes of the disk that are in one place: `entry` is the L2 entry of the first of its clusters."""

    entry: int
    host: int
    length: int


class Qcow2Image:
    """An image in `descriptor`, which is its own from now on; `backing` has what it does not."""

    def __init__(self, descriptor: int, header: Header, backing: Image | None, *, readonly: bool) -> None:
        self.size = header.size
        self.readonly = readonly
        self._descriptor = descriptor
        self.header = header
        self._bits = header.cluster_bits
        self._cluster = 1 << self._bits
        self._in_table = self._cluster // 8
        self._backing = backing
        self._l1 = read_table(descriptor, header.l1_offset, header.l1_entries)
        self._tables: OrderedDict[int, array[int]] = OrderedDict()
        self._dirty_tables: set[int] = set()
        self._dirty_l1: set[int] = set()
        self._given_back: list[tuple[int, int]] = []
        self._decompressed: tuple[int, bytes] = (0, b"")
        if not readonly:
            self._refcounts = Refcounts(descriptor, header)
            self._metadata = self._own_metadata()
            if header.autoclear:
                os.pwrite(descriptor, bytes(8), _AUTOCLEAR)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        cursor = _Cursor(buffers)
        for run in self._runs(offset, sum(map(len, buffers))):
            self._read(run, offset, cursor.take(run.length))
            offset += run.length

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> None:
        cursor = _Cursor(buffers)
        left = sum(map(len, buffers))
        while left:
            within = offset % self._cluster
            whole = (left + within) // self._cluster if within == 0 else 0
            length = min(left, self._cluster - within) if whole == 0 else whole * self._cluster
            if whole:
                self._write_clusters(offset, cursor, whole)
            else:
                self._write_part(offset, cursor.take(length), length)
            offset += length
            left -= length

    def write_zeroes(self, offset: int, length: int) -> None:
        while length:
            within = offset % self._cluster
            part = min(length, self._cluster - within)
            entry = self._entry(offset)
            if entry == _ZERO or (entry == 0 and self._backing is None):
                pass
            elif part == self._cluster and self.header.version >= 3:
                self._set(offset, _ZERO)
            else:
                self._write_part(offset, [memoryview(bytes(part))], part)
            offset += part
            length -= part

    def flush(self) -> None:
        if self.readonly:
            return
        os.fdatasync(self._descriptor)
        if self._dirty_tables:
            for index in self._dirty_tables:
                at = self._l1[index] & _OFFSET
                _write_all(self._descriptor, [memoryview(table_bytes(self._tables[index]))], at)
            self._dirty_tables.clear()
            os.fdatasync(self._descriptor)
        if self._dirty_l1:
            for index in self._dirty_l1:
                entry = self._l1[index].to_bytes(8, "big")
                os.pwrite(self._descriptor, entry, self.header.l1_offset + 8 * index)
            self._dirty_l1.clear()
            os.fdatasync(self._descriptor)
        given_back, self._given_back = self._given_back, []
        for at, length in given_back:
            self._refcounts.give_back(at, length)

    def close(self) -> None:
        with suppress(OSError):
            self.flush()
        if self._backing is not None:
            self._backing.close()
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)

    def _own_metadata(self) -> set[int]:
        """The clusters of the header, of the L1 table and of L2 tables: no data is ever written there."""
        first = self.header.l1_offset >> self._bits
        count = -(-self.header.l1_entries * 8 >> self._bits)
        return {0, *range(first, first + count), *((entry & _OFFSET) >> self._bits for entry in self._l1)}

    # Where bytes are.

    def _entry(self, offset: int) -> int:
        table = self._table(offset // self._cluster // self._in_table)
        return 0 if table is None else table[(offset >> self._bits) % self._in_table]

    def _table(self, index: int) -> array[int] | None:
        """The L2 table that an L1 entry names."""
        if index in self._tables:
            self._tables.move_to_end(index)
            return self._tables[index]
        at = self._l1[index] & _OFFSET
        if at == 0:
            return None
        self._check_place(at)
        self._keep(index, read_table(self._descriptor, at, self._in_table))
        return self._tables[index]

    def _keep(self, index: int, table: array[int]) -> None:
        if len(self._tables) >= _TABLES:
            if self._dirty_tables:
                self.flush()
            self._tables.popitem(last=False)
        self._tables[index] = table

    def _check_place(self, at: int) -> None:
        if at % self._cluster:
            raise OSError(errno.EIO, "a corrupt qcow2 image: a cluster is not where clusters are")

    def _runs(self, offset: int, length: int) -> Iterator[_Run]:
        """The places of a range of the disk; neighbours in the file are one."""
        run: _Run | None = None
        while length:
            within = offset % self._cluster
            part = min(length, self._cluster - within)
            entry = self._entry(offset)
            host = (entry & _OFFSET) + within if _is_data(entry) else 0
            if run and _is_data(entry) and _is_data(run.entry) and run.host + run.length == host:
                run = run._replace(length=run.length + part)
            else:
                if run:
                    yield run
                run = _Run(entry, host, part)
            offset += part
            length -= part
        if run:
            yield run

    def _read(self, run: _Run, offset: int, buffers: list[memoryview]) -> None:
        if run.entry & _COMPRESSED:
            within = offset % self._cluster
            _fill(buffers, self._decompress(run.entry)[within : within + run.length])
        elif _is_data(run.entry):
            self._check_place(run.entry & _OFFSET)
            _read_all(self._descriptor, buffers, run.host)
        elif run.entry & _ZERO or self._backing is None or offset >= self._backing.size:
            _fill(buffers, bytes(run.length))
        else:
            self._read_backing(self._backing, offset, buffers, run.length)

    @staticmethod
    def _read_backing(backing: Image, offset: int, buffers: list[memoryview], length: int) -> None:
        """From the backing file, and zeroes beyond its end."""
        inside = min(length, backing.size - offset)
        cursor = _Cursor(buffers)
        backing.read_into(offset, cursor.take(inside))
        _fill(cursor.take(length - inside), bytes(length - inside))

    def _decompress(self, entry: int) -> bytes:
        if self._decompressed[0] == entry:
            return self._decompressed[1]
        at, length = self._compressed_place(entry)
        packed = os.pread(self._descriptor, length, at)
        try:
            content = _unpack(packed, self.header.compression, self._cluster)
        except (zlib.error, ValueError) as error:
            raise OSError(errno.EIO, f"a corrupt qcow2 image: a compressed cluster: {error}") from error
        self._decompressed = (entry, content.ljust(self._cluster, b"\0"))
        return self._decompressed[1]

    def _compressed_place(self, entry: int) -> tuple[int, int]:
        shift = 62 - (self._bits - 8)
        at = entry & (1 << shift) - 1
        sectors = (entry & _COMPRESSED - 1) >> shift
        return at, (sectors + 1) * 512 - at % 512

    # Writing.

    def _write_part(self, offset: int, buffers: list[memoryview], length: int) -> None:
        """Write a part of one cluster."""
        entry = self._entry(offset)
        within = offset % self._cluster
        if self._is_ours(entry):
            _write_all(self._descriptor, buffers, (entry & _OFFSET) + within)
            return
        content = bytearray(self._cluster)
        start = offset - within
        inside = min(self._cluster, self.size - start)
        self.read_into(start, [memoryview(content)[:inside]])
        content[within : within + length] = b"".join(buffers)
        at = self._refcounts.take(1)
        _write_all(self._descriptor, [memoryview(content)], at)
        self._set(offset, at | _COPIED)

    def _write_clusters(self, offset: int, cursor: _Cursor, count: int) -> None:
        """Write whole clusters: where they are, if they are ours alone, else in new ones."""
        while count:
            entry = self._entry(offset)
            ours = self._is_ours(entry)
            run = 1
            while run < count and self._follows(offset, entry, run, ours=ours):
                run += 1
            at = entry & _OFFSET if ours else self._refcounts.take(run)
            _write_all(self._descriptor, cursor.take(run * self._cluster), at)
            if not ours:
                for index in range(run):
                    self._set(offset + index * self._cluster, at + index * self._cluster | _COPIED)
            offset += run * self._cluster
            count -= run

    def _follows(self, offset: int, entry: int, number: int, *, ours: bool) -> bool:
        """Whether the cluster so many behind this one can be written with it in one go."""
        other = self._entry(offset + number * self._cluster)
        if ours:
            return self._is_ours(other) and other & _OFFSET == (entry & _OFFSET) + number * self._cluster
        return not self._is_ours(other)

    def _is_ours(self, entry: int) -> bool:
        """Whether a cluster is data that nobody else uses. Raises `OSError` for one that cannot be data."""
        if not _is_data(entry) or not entry & _COPIED:
            return False
        at = entry & _OFFSET
        self._check_place(at)
        index = at >> self._bits
        if index in self._metadata or index in self._refcounts.clusters:
            raise OSError(errno.EIO, "a corrupt qcow2 image: a cluster of data is one of its own tables")
        return self._refcounts.is_single(at)

    def _set(self, offset: int, entry: int) -> None:
        """Let this be the L2 entry of a cluster, and give back what it was."""
        index, place = divmod(offset >> self._bits, self._in_table)
        table = self._table_of_ours(index)
        before = table[place]
        table[place] = entry
        self._dirty_tables.add(index)
        if before & _COMPRESSED:
            self._given_back.append(self._compressed_place(before))
        elif before & _OFFSET:
            self._given_back.append((before & _OFFSET, self._cluster))

    def _table_of_ours(self, index: int) -> array[int]:
        """An L2 table that may be changed: a new one, or a copy of one that a snapshot uses too."""
        table = self._table(index)
        before = self._l1[index]
        if table is not None and before & _COPIED:
            return table
        at = self._refcounts.take(1)
        self._metadata.add(at >> self._bits)
        if table is None:
            table = array("Q", bytes(self._cluster))
            self._keep(index, table)
        self._l1[index] = at | _COPIED
        self._dirty_l1.add(index)
        self._dirty_tables.add(index)
        if before & _OFFSET:
            self._given_back.append((before & _OFFSET, self._cluster))
        return table


class _Cursor:
    """Takes buffers from a list, from its beginning on."""

    def __init__(self, buffers: Sequence[memoryview]) -> None:
        self._left = [*reversed(buffers)]

    def take(self, length: int) -> list[memoryview]:
        """The next so many bytes."""
        found = []
        while length:
            buffer = self._left.pop()
            if len(buffer) > length:
                self._left.append(buffer[length:])
                buffer = buffer[:length]
            found.append(buffer)
            length -= len(buffer)
        return found


def _is_data(entry: int) -> bool:
    """Whether an entry refers to a cluster of plain data."""
    return bool(entry & _OFFSET) and not entry & (_COMPRESSED | _ZERO)


def _fill(buffers: list[memoryview], content: bytes) -> None:
    at = 0
    for buffer in buffers:
        buffer[:] = content[at : at + len(buffer)]
        at += len(buffer)


def _unpack(packed: bytes, compression: int, size: int) -> bytes:
    if compression == ZSTD:
        import zstandard  # noqa: PLC0415 - rarely needed

        try:
            return zstandard.ZstdDecompressor().decompress(packed, max_output_size=size)
        except zstandard.ZstdError as error:
            raise ValueError(error) from error
    return zlib.decompressobj(-12).decompress(packed, size)


def _read_all(descriptor: int, buffers: list[memoryview], at: int) -> None:
    """Read the buffers; beyond the file's end there are zeroes."""
    for part, place, expected in _pieces(buffers, at):
        done = os.preadv(descriptor, part, place)
        if done < expected:
            cursor = _Cursor(part)
            cursor.take(done)
            _fill(cursor.take(expected - done), bytes(expected - done))


def _write_all(descriptor: int, buffers: list[memoryview], at: int) -> None:
    for part, place, expected in _pieces(buffers, at):
        done = os.pwritev(descriptor, part, place)
        rest = b"".join(part)[done:] if done < expected else b""
        while rest:
            count = os.pwrite(descriptor, rest, place + done)
            rest, done = rest[count:], done + count


def _pieces(buffers: list[memoryview], at: int) -> Iterator[tuple[list[memoryview], int, int]]:
    """So many buffers as one system call takes, where they go, and how many bytes they have."""
    for start in range(0, len(buffers), MOST_BUFFERS):
        part = buffers[start : start + MOST_BUFFERS]
        length = sum(map(len, part))
        yield part, at, length
        at += length
