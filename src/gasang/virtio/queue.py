"""The split virtqueue as a device uses it (Virtio 1.2, 2.7).

Nothing that the driver writes is believed: addresses must be RAM, chains end, indexes stay within the ring.
What breaks these rules is a `QueueError`, after which the device needs a reset.
"""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass
from functools import lru_cache

from gasang.device import GuestMemoryError, MemoryInPlace, Saved

MOST_DESCRIPTORS = 1024
"""Of a queue, and so of a chain."""

_DESCRIPTOR = struct.Struct("<QIHH")
_USED = struct.Struct("<II")
_NEXT, _WRITE, _INDIRECT = 1, 2, 4
_NO_INTERRUPT, _NO_NOTIFY = 1, 1
_WRAP = 0x10000


class QueueError(Exception):
    """The driver broke a rule of the queue."""


@dataclass(slots=True)
class Chain:
    """The buffers of one request: those to read come first, then those to write."""

    head: int
    readable: list[memoryview]
    writable: list[memoryview]
    writable_ranges: list[tuple[int, int]]
    """Where the latter are in guest memory: address and length."""

    room: int
    """How many bytes they have together."""


class Queue:
    """One queue, from the driver's `enable` to its reset."""

    def __init__(self, memory: MemoryInPlace) -> None:
        # wiring
        self._memory = memory
        self._lock = threading.Lock()
        # volatile state: as the driver chose
        self.size = MOST_DESCRIPTORS
        self.descriptors = self.driver_area = self.device_area = 0
        self.enabled = False
        # volatile state: how far it is
        self._event_index = False
        self._next = 0
        self._used = 0
        self._told = 0

    def enable(self, *, event_index: bool) -> None:
        """Begin with the areas that were set. Raises `QueueError` if they cannot be a queue's."""
        size = self.size
        if not 0 < size <= MOST_DESCRIPTORS or size & (size - 1):
            raise QueueError(f"a queue of {size} descriptors")
        if self.descriptors % 16 or self.driver_area % 2 or self.device_area % 4:
            raise QueueError("an area of a queue is not aligned")
        try:
            self._table = self._memory.view(self.descriptors, 16 * size)
            self._available = self._memory.view(self.driver_area, 6 + 2 * size).cast("H")
            self._ring = self._memory.view(self.device_area, 6 + 8 * size)
        except GuestMemoryError as error:
            raise QueueError(f"an area of a queue is no RAM: {error}") from error
        self._ring_words = self._ring.cast("H")
        self._event_index = event_index
        self._next = self._used = self._told = 0
        self.enabled = True

    def state(self) -> Saved:
        return {
            "size": self.size,
            "descriptors": self.descriptors,
            "driver_area": self.driver_area,
            "device_area": self.device_area,
            "enabled": self.enabled,
            "event_index": self._event_index,
            "next": self._next,
            "used": self._used,
            "told": self._told,
        }

    def set_state(self, state: Saved) -> None:
        """Be where another queue was, in the same memory. Raises `ValueError`."""
        self.size, self.descriptors = int(state["size"]), int(state["descriptors"])
        self.driver_area, self.device_area = int(state["driver_area"]), int(state["device_area"])
        if state["enabled"]:
            try:
                self.enable(event_index=bool(state["event_index"]))
            except QueueError as error:
                raise ValueError(str(error)) from error
        self._next, self._used, self._told = (state[name] % _WRAP for name in ("next", "used", "told"))

    @property
    def added(self) -> int:
        """How many requests the driver has added, modulo 2^16."""
        return int(self._available[1])

    def put_back(self) -> None:
        """Nothing was done with the request that `pop` returned last: it is the next again."""
        self._next = (self._next - 1) % _WRAP

    @property
    def waits(self) -> bool:
        """There is a request."""
        return bool(self._available[1] != self._next)

    def pop(self) -> Chain | None:
        """The next request, if there is one. Raises `QueueError`."""
        waiting = (self._available[1] - self._next) % _WRAP
        if waiting == 0:
            return None
        if waiting > self.size:
            raise QueueError(f"{waiting} requests in a queue of {self.size}")
        head = self._available[2 + self._next % self.size]
        self._next = (self._next + 1) % _WRAP
        try:
            readable, writable = self._collect(head)
            views = self._memory.views(writable)
            return Chain(head, self._memory.views(readable), views, writable, sum(map(len, views)))
        except GuestMemoryError as error:
            raise QueueError(f"a buffer is no RAM: {error}") from error

    def push(self, chain: Chain, written: int) -> None:
        """The request is done, and so many bytes of its buffers written. `publish` lets the driver see it."""
        if written:
            ranges = chain.writable_ranges
            self._memory.written(ranges if written == chain.room else _first(ranges, written))
        _USED.pack_into(self._ring, 4 + 8 * (self._used % self.size), chain.head, written)
        self._used = (self._used + 1) % _WRAP

    def publish(self) -> bool:
        """Let the driver see what was pushed; whether it wants to be interrupted for that (2.7.7, 2.7.10)."""
        before, now = self._told, self._used
        if before == now:
            return False
        self._ring_words[1] = now
        self._told = now
        self._memory.written([(self.device_area, len(self._ring))])
        self._barrier()
        if not self._event_index:
            return not self._available[0] & _NO_INTERRUPT
        wanted = self._available[2 + self.size]
        return (now - wanted - 1) % _WRAP < (now - before) % _WRAP

    def want_notifications(self, wanted: bool) -> None:
        """Whether the driver is to ring when it adds a request. Afterwards look once more: it may have added
        one before it saw this."""
        if self._event_index:
            if wanted:
                self._ring_words[2 + 4 * self.size] = self._next
        else:
            self._ring_words[0] = 0 if wanted else _NO_NOTIFY
        self._barrier()

    def want_next_notification(self) -> int:
        """The driver is to ring when it adds one more, whatever waits: how many it had `added` before."""
        while True:
            added = self.added
            if self._event_index:
                self._ring_words[2 + 4 * self.size] = added
            else:
                self._ring_words[0] = 0
            self._barrier()
            if self.added == added:
                return added

    def _barrier(self) -> None:
        """What was written is seen before what is read next (2.7.13): a lock's exchange is a barrier."""
        with self._lock:
            pass

    def _collect(self, head: int) -> tuple[list[_Range], list[_Range]]:
        """The buffers of a chain, to be read and to be written."""
        chain = _walk(self._table, self.size, head)
        last = chain[-1]
        if last[2] & _INDIRECT:
            table = self._indirect(*last[:3])
            if len(chain) == 1 and (usual := _usual(table)) is not None:
                return usual
            chain[-1:] = _walk(table, len(table) // _DESCRIPTOR.size, 0)
            if chain[-1][2] & _INDIRECT:
                raise QueueError("an indirect table in another")
        readable: list[_Range] = []
        writable: list[_Range] = []
        start = end = 0
        ranges = readable
        for address, length, flags in chain:
            if length == 0:
                raise QueueError("a buffer of no bytes")
            if address == end and (flags & _WRITE != 0) == (ranges is writable):
                end += length
                continue
            if end:
                ranges.append((start, end - start))
            start, end = address, address + length
            if flags & _WRITE:
                ranges = writable
            elif ranges is writable:
                raise QueueError("a buffer to read behind one to write")
        ranges.append((start, end - start))
        return readable, writable

    def _indirect(self, address: int, length: int, flags: int) -> memoryview:
        """The table of others that a descriptor stands for (2.7.5.3)."""
        count, rest = divmod(length, _DESCRIPTOR.size)
        if flags & _NEXT or rest or not 0 < count <= MOST_DESCRIPTORS:
            raise QueueError(f"an indirect table of {length} bytes where it may not be")
        return self._memory.view(address, length)


_Range = tuple[int, int]
_Descriptor = tuple[int, int, int]


_LONG = 16
"""Buffers from which on a chain is taken as a whole: a loop over hundreds takes longer than to fill them."""

_FOLLOWING = tuple(range(1, MOST_DESCRIPTORS))


@lru_cache(maxsize=8)
def _columns(count: int) -> struct.Struct:
    return struct.Struct("<" + "QIHH" * count)


def _usual(table: memoryview) -> tuple[list[_Range], list[_Range]] | None:
    """The buffers of a long chain if it is as drivers write them: one behind the other, filling its table."""
    count = len(table) // _DESCRIPTOR.size
    if count < _LONG:
        return None
    fields = _columns(count).unpack(table)
    lengths, flags = fields[1::4], fields[2::4]
    readable = flags.count(_NEXT)
    if flags != (_NEXT,) * readable + (_NEXT | _WRITE,) * (count - 1 - readable) + (_WRITE,):
        return None
    if fields[3:-1:4] != _FOLLOWING[: count - 1] or 0 in lengths:
        return None
    ranges = list(zip(fields[0::4], lengths, strict=True))
    return ranges[:readable], ranges[readable:]


def _walk(table: memoryview, size: int, index: int) -> list[_Descriptor]:
    """Address, length and flags of the descriptors of a chain, up to one that points elsewhere."""
    found = []
    for place, (address, length, flags, following) in enumerate(_DESCRIPTOR.iter_unpack(table)):
        # Nearly all drivers write them one behind the other.
        if place != index:
            break
        found.append((address, length, flags))
        if not flags & _NEXT or flags & _INDIRECT:
            return found
        index = following
    for _ in range(size - len(found)):
        if index >= size:
            raise QueueError(f"descriptor {index} of {size}")
        address, length, flags, index = _DESCRIPTOR.unpack_from(table, _DESCRIPTOR.size * index)
        found.append((address, length, flags))
        if not flags & _NEXT or flags & _INDIRECT:
            return found
    raise QueueError("a chain without an end")


def _first(ranges: list[_Range], length: int) -> list[_Range]:
    """The first so many bytes of ranges."""
    found = []
    for address, size in ranges:
        if length <= 0:
            break
        found.append((address, min(size, length)))
        length -= size
    return found
