"""Which device answers at an address: one address space for I/O ports, one for memory-mapped I/O.

Partial and wide accesses are settled here, once: an access that is wider than the device's registers, or that
reaches beyond the device, is split; where no device is, reads float to all ones and writes go nowhere.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from gasang.device import Device


class _Region(NamedTuple):
    """`device` answers from `start` to before `end`; `origin` is the address of its offset 0."""

    start: int
    end: int
    origin: int
    width: int
    device: Device


class AddressSpace:
    """A map from addresses to devices, without overlaps."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._starts: list[int] = []
        self._regions: list[_Region] = []

    def attach(self, device: Device, start: int, length: int, *, width: int = 1, offset: int = 0) -> None:
        """Let `device` answer at `length` addresses from `start`, which is its `offset`.

        `width` is the widest access it takes in one piece, a power of two; wider ones become several, lowest
        address first. Raises `ValueError` if another device is there.
        """
        index = bisect_right(self._starts, start)
        for other in self._regions[max(index - 1, 0) : index + 1]:
            if start < other.end and other.start < start + length:
                raise ValueError(f"{self._name} {start:#x} belongs to {other.device!r} already")
        self._starts.insert(index, start)
        self._regions.insert(index, _Region(start, start + length, start - offset, width, device))

    def detach(self, start: int) -> None:
        """Let nobody answer any more where a device was attached at `start`."""
        index = self._starts.index(start)
        del self._starts[index], self._regions[index]

    def read(self, address: int, size: int) -> int:
        """What `size` bytes at `address` read as, the byte at the lowest address least significant."""
        region = self._find(address)
        if region is not None and size <= region.width and address + size <= region.end:
            return region.device.read(address - region.origin, size)
        if size == 1:
            return 0xFF
        half = size // 2
        return self.read(address, half) | self.read(address + half, half) << (8 * half)

    def write(self, address: int, size: int, value: int) -> None:
        """Write `size` bytes at `address`."""
        region = self._find(address)
        if region is not None and size <= region.width and address + size <= region.end:
            region.device.write(address - region.origin, size, value)
        elif size > 1:
            half = size // 2
            self.write(address, half, value & ((1 << (8 * half)) - 1))
            self.write(address + half, half, value >> (8 * half))

    def _find(self, address: int) -> _Region | None:
        index = bisect_right(self._starts, address) - 1
        if index >= 0 and address < self._regions[index].end:
            return self._regions[index]
        return None


class Bus:
    """The two address spaces of a PC beside RAM."""

    def __init__(self) -> None:
        self.ports = AddressSpace("I/O port")
        self.memory = AddressSpace("physical address")
