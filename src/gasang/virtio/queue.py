"""The split virtqueue as a device uses it (Virtio 1.2, 2.7).

Nothing that the driver writes is believed: addresses must be RAM, chains end, indexes stay within the ring.
What breaks these rules is a `QueueError`, after which the device needs a reset.
"""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass, field

from gasang.device import GuestMemoryError, MemoryInPlace

MOST_DESCRIPTORS = 256
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
    readable: list[memoryview] = field(default_factory=list)
    writable: list[memoryview] = field(default_factory=list)
    addresses: list[int] = field(default_factory=list)
    """Where each writable buffer is in guest memory."""


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
        chain = Chain(head)
        try:
            self._collect(chain, self._table, head, self.size)
        except GuestMemoryError as error:
            raise QueueError(f"a buffer is no RAM: {error}") from error
        return chain

    def push(self, chain: Chain, written: int) -> None:
        """The request is done, and so many bytes of its buffers written. `publish` lets the driver see it."""
        left = written
        for address, buffer in zip(chain.addresses, chain.writable, strict=True):
            if left <= 0:
                break
            self._memory.written(address, min(left, len(buffer)))
            left -= len(buffer)
        _USED.pack_into(self._ring, 4 + 8 * (self._used % self.size), chain.head, written)
        self._used = (self._used + 1) % _WRAP

    def publish(self) -> bool:
        """Let the driver see what was pushed; whether it wants to be interrupted for that (2.7.7, 2.7.10)."""
        before, now = self._told, self._used
        if before == now:
            return False
        self._ring_words[1] = now
        self._told = now
        self._memory.written(self.device_area, len(self._ring))
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

    def _barrier(self) -> None:
        """What was written is seen before what is read next (2.7.13): a lock's exchange is a barrier."""
        with self._lock:
            pass

    def _collect(self, chain: Chain, table: memoryview, index: int, size: int) -> None:
        """The buffers of a chain that begins at `index` of a table of `size` descriptors."""
        indirect = table is not self._table
        for _ in range(size):
            if index >= size:
                raise QueueError(f"descriptor {index} of {size}")
            address, length, flags, following = _DESCRIPTOR.unpack_from(table, 16 * index)
            if flags & _INDIRECT:
                self._follow(chain, address, length, indirect=indirect, flags=flags)
                return
            self._add(chain, address, length, flags)
            if not flags & _NEXT:
                return
            index = following
        raise QueueError("a chain without an end")

    def _follow(self, chain: Chain, address: int, length: int, *, indirect: bool, flags: int) -> None:
        """A descriptor that points to a table of others (2.7.5.3)."""
        count, rest = divmod(length, 16)
        if indirect or flags & _NEXT or rest or not 0 < count <= MOST_DESCRIPTORS:
            raise QueueError(f"an indirect table of {length} bytes where it may not be")
        self._collect(chain, self._memory.view(address, length), 0, count)

    def _add(self, chain: Chain, address: int, length: int, flags: int) -> None:
        if length == 0:
            raise QueueError("a buffer of no bytes")
        buffer = self._memory.view(address, length)
        if flags & _WRITE:
            chain.writable.append(buffer)
            chain.addresses.append(address)
        elif chain.writable:
            raise QueueError("a buffer to read behind one to write")
        else:
            chain.readable.append(buffer)
