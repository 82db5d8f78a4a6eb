"""What a device is, and all that it sees of the machine: offsets, an interrupt line, guest memory, a clock.

A device knows neither its addresses nor its interrupt's number, and never the engine: so a test drives it
with a byte buffer, and the same device can be wired twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Device(Protocol):
    """Registers, read and written by offset.

    `size` is 1, 2, 4 or 8 bytes, never more than the width that the device was attached with; values are
    unsigned and fit in `size` bytes.
    """

    def read(self, offset: int, size: int) -> int: ...

    def write(self, offset: int, size: int, value: int) -> None: ...


class InterruptLine(Protocol):
    """A wire to an interrupt controller."""

    def set_level(self, high: bool) -> None:
        """Drive the line high or low; an edge-triggered input takes the change from low to high."""


class GuestMemory(Protocol):
    """Guest RAM by physical address. Both methods raise `GuestMemoryError` if any of the bytes is not RAM."""

    def read(self, address: int, length: int) -> bytes: ...

    def write(self, address: int, data: bytes) -> None: ...


class MemoryInPlace(Protocol):
    """Guest RAM by physical address, without copies. Raises `GuestMemoryError` as `GuestMemory` does."""

    def view(self, address: int, length: int) -> memoryview:
        """The bytes, which the guest may change at any time."""

    def views(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """The same of each (address, length)."""

    def written(self, ranges: Sequence[tuple[int, int]]) -> None:
        """The bytes at each (address, length) were written."""


class GuestMemoryError(Exception):
    """A guest gave a device an address that is not RAM: the device answers as its hardware would."""


Saved = dict[str, Any]
"""What is volatile of a device, in values that JSON has: `state` returns it and `set_state` takes it, which
raises `KeyError`, `TypeError` or `ValueError` for what the former never returned."""


class Savable(Protocol):
    """A device that can be saved, and loaded into another of its kind that has not been used yet."""

    def state(self) -> Saved: ...

    def set_state(self, state: Saved) -> None: ...


VirtualClock = Callable[[], int]
"""Nanoseconds of the virtual clock since the machine was made: the only time that a device knows."""
