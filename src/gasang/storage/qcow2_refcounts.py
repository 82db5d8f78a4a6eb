"""Who uses which cluster of a qcow2 image: reference counts of 16 bits, in blocks that a table names.

Clusters are taken at the file's end; those that are given back leave a hole. A count is written before
anything can refer to its cluster, so that whatever happens a cluster in use is counted: at worst one is
counted that nobody uses.
"""

from __future__ import annotations

import os
import struct
import sys
from array import array

from gasang.storage.qcow2_header import Header
from gasang.storage.raw import punch_hole

_OFFSET = 0x00FFFFFFFFFFFE00
_MOST = 0xFFFF
_HEADER_TABLE = 48
"""Where the header has the table's offset and its number of clusters."""


class Refcounts:
    """The counts of an image that is written."""

    def __init__(self, descriptor: int, header: Header) -> None:
        self._descriptor = descriptor
        self._cluster = 1 << header.cluster_bits
        self._in_block = self._cluster // 2
        self._table_at = header.refcount_table
        self._table = read_table(descriptor, header.refcount_table, self._in_table(header))
        self._blocks: dict[int, array[int]] = {}
        self.clusters = self._own_clusters()
        self._end = max(self._last_counted() + 1, -(-os.fstat(descriptor).st_size // self._cluster))

    def is_single(self, offset: int) -> bool:
        """Whether the cluster that begins there is used once."""
        number, place = divmod(offset // self._cluster, self._in_block)
        return self._has_block(number) and self._block(number)[place] == 1

    def _own_clusters(self) -> set[int]:
        """The clusters of the table and of the blocks."""
        first, count = self._table_at // self._cluster, len(self._table) * 8 // self._cluster
        blocks = {(entry & _OFFSET) // self._cluster for entry in self._table if entry}
        return blocks | set(range(first, first + count))

    def take(self, count: int) -> int:
        """So many clusters in a row, each used once: where they begin."""
        self._make_room(self._end + count)
        first = self._end
        self._end += count
        self._count(range(first, first + count), 1)
        return first * self._cluster

    def give_back(self, offset: int, length: int) -> None:
        """One use less of the clusters of this range; those that nobody uses any more leave a hole."""
        first, last = offset // self._cluster, (offset + length - 1) // self._cluster
        for index in range(first, last + 1):
            if self._has_block(index // self._in_block) and self._count(range(index, index + 1), -1) == 0:
                punch_hole(self._descriptor, index * self._cluster, self._cluster)

    def _has_block(self, number: int) -> bool:
        return number < len(self._table) and bool(self._table[number])

    def _in_table(self, header: Header) -> int:
        return header.refcount_table_clusters * self._cluster // 8

    def _count(self, clusters: range, change: int) -> int:
        """Change counts; the last one as it is then."""
        value = 0
        for index in clusters:
            number, place = divmod(index, self._in_block)
            block = self._block(number)
            value = min(max(block[place] + change, 0), _MOST)
            block[place] = value
            at = (self._table[number] & _OFFSET) + 2 * place
            os.pwrite(self._descriptor, struct.pack(">H", value), at)
        return value

    def _block(self, number: int) -> array[int]:
        if number not in self._blocks:
            content = os.pread(self._descriptor, self._cluster, self._table[number] & _OFFSET)
            self._blocks[number] = _swapped(array("H", content.ljust(self._cluster, b"\0")))
        return self._blocks[number]

    def _last_counted(self) -> int:
        for number in range(len(self._table) - 1, -1, -1):
            if self._table[number]:
                block = self._block(number)
                used = [place for place, count in enumerate(block) if count]
                if used:
                    return number * self._in_block + used[-1]
        return 0

    def _make_room(self, end: int) -> None:
        """Have blocks for every cluster before `end`, and for those that this takes."""
        while True:
            last = (end - 1) // self._in_block
            # With room for the blocks that may have to come behind.
            if last + 1 >= len(self._table):
                end += self._grow(last + 2)
                continue
            numbers = range(self._end // self._in_block, last + 1)
            missing = [number for number in numbers if not self._table[number]]
            if not missing:
                return
            self._add_block(missing[0])
            end += 1

    def _add_block(self, number: int) -> None:
        """A block in the first cluster behind the end, which counts itself if it is the one for that."""
        index, self._end = self._end, self._end + 1
        self._blocks[number] = array("H", bytes(self._cluster))
        os.pwrite(self._descriptor, bytes(self._cluster), index * self._cluster)
        self._table[number] = index * self._cluster
        self.clusters.add(index)
        entry = struct.pack(">Q", index * self._cluster)
        os.pwrite(self._descriptor, entry, self._table_at + 8 * number)
        if not self._table[index // self._in_block]:
            self._add_block(index // self._in_block)
        self._count(range(index, index + 1), 1)

    def _grow(self, entries: int) -> int:
        """Move to a table of at least so many entries; how many clusters that took."""
        old_at, old_bytes = self._table_at, len(self._table) * 8
        clusters = -(-(max(entries, len(self._table) * 3 // 2) + 1) * 8 // self._cluster)
        first, self._end = self._end, self._end + clusters
        self._table.extend([0] * (clusters * self._cluster // 8 - len(self._table)))
        self._table_at = first * self._cluster
        self.clusters.update(range(first, self._end))
        os.pwrite(self._descriptor, table_bytes(self._table), self._table_at)
        before = self._end
        for index in range(first, first + clusters):
            if not self._table[index // self._in_block]:
                self._add_block(index // self._in_block)
            self._count(range(index, index + 1), 1)
        os.fdatasync(self._descriptor)
        place = struct.pack(">QI", self._table_at, clusters)
        os.pwrite(self._descriptor, place, _HEADER_TABLE)
        os.fdatasync(self._descriptor)
        self.give_back(old_at, old_bytes)
        return clusters + self._end - before


def read_table(descriptor: int, offset: int, entries: int) -> array[int]:
    """A table of 64-bit entries."""
    content = os.pread(descriptor, 8 * entries, offset)
    return _swapped(array("Q", content.ljust(8 * entries, b"\0")))


def table_bytes(table: array[int]) -> bytes:
    """The same as it is in the file."""
    return _swapped(array("Q", table)).tobytes()


def _swapped(values: array[int]) -> array[int]:
    """From the file's byte order, or to it."""
    if sys.byteorder == "little":
        values.byteswap()
    return values
