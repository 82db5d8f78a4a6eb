"""Where things go in guest memory: claims on RAM, none of which overlap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gasang.errors import KernelError
from gasang.firmware.memory_map import MemoryRange, MemoryType
from gasang.units import MIB, format_size

PAGE = 4096


class Placement:
    """Free RAM, handed out piece by piece; never page 0, as boot protocols take address 0 for "none"."""

    def __init__(self, memory_map: Sequence[MemoryRange]) -> None:
        self._free = [(max(each.start, PAGE), each.end) for each in memory_map if each.type is MemoryType.RAM]

    @property
    def free_bytes(self) -> int:
        """The bytes of RAM that nobody has claimed."""
        return sum(end - start for start, end in self._free)

    def claim(self, address: int, size: int, purpose: str) -> None:
        """Take a fixed place. Raises `KernelError` if any of it is not free RAM."""
        for index, (start, end) in enumerate(self._free):
            if start <= address and address + size <= end:
                self._free[index : index + 1] = _non_empty((start, address), (address + size, end))
                return
        raise KernelError(
            f"{purpose} goes to {address:#x}-{address + size:#x}, which is not free RAM in this machine: "
            f"give it more memory (-m), or a kernel linked to another address"
        )

    def lowest(self, size: int, purpose: str, *, start: int = 0, align: int = PAGE) -> int:
        """Take the lowest free place from `start` on. Raises `KernelError` if none is left."""
        for range_start, range_end in self._free:
            address = -(-max(range_start, start) // align) * align
            if address + size <= range_end:
                self.claim(address, size, purpose)
                return address
        raise self._no_room(size, purpose)

    def highest(self, size: int, purpose: str, *, ends: Sequence[int], align: int = PAGE) -> int:
        """Take the highest free place below the first of `ends` that has room below it.

        Raises `KernelError` if none has.
        """
        for end in ends:
            for range_start, range_end in reversed(self._free):
                address = (min(range_end, end) - size) // align * align
                if address >= range_start:
                    self.claim(address, size, purpose)
                    return address
        raise self._no_room(size, purpose)

    def _no_room(self, size: int, purpose: str) -> KernelError:
        free = self.free_bytes // MIB * MIB
        return KernelError(
            f"{purpose} of {_rounded(size)} does not fit in guest memory beside the kernel "
            f"(about {format_size(free)} free): give the machine more memory (-m)"
        )


def _non_empty(*ranges: tuple[int, int]) -> Iterable[tuple[int, int]]:
    return [(start, end) for start, end in ranges if start < end]


def _rounded(size: int) -> str:
    return format_size(-(-size // MIB) * MIB) if size > MIB else f"{size} bytes"
