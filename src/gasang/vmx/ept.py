"""Extended page tables (SDM vol. 3, 29.3): what a guest's physical addresses are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gasang.errors import VmxError
from gasang.vmx.memory import PAGE, Pages
from gasang.vmx.names import masks

_LARGE_PAGE = 1 << 21
_ENTRIES = 512
_LEVELS = (39, 30, 21, 12)
"""The lowest bit of the address that each level of the tables looks at."""
_ADDRESS = 0x000F_FFFF_FFFF_F000
_BITS = masks("ept_entry")
_PERMISSIONS = _BITS["read"] | _BITS["write"] | _BITS["execute"]
_TYPE_SHIFT = 3
_WALK_LENGTH_4 = 3 << 3
_MEMORY_TYPES = {
    "uncacheable": 0,
    "write-combining": 1,
    "write-through": 4,
    "write-protected": 5,
    "write-back": 6,
}
_TYPE_NAMES = {number: name for name, number in _MEMORY_TYPES.items()}


@dataclass(frozen=True, slots=True)
class EptPage:
    """What a guest-physical address is mapped to: a page of `size` bytes at `physical`."""

    guest_physical: int
    physical: int
    size: int
    read: bool
    write: bool
    execute: bool
    memory_type: str
    accessed: bool
    dirty: bool


class Ept:
    """The extended page tables of one guest, or of several.

    Every method that changes what an address is mapped to ends with INVEPT, so that the next VM entry sees
    it. Addresses and sizes are multiples of 4096; raises `VmxError` if they are not. Pages of 2 MiB are used
    where they fit, and split where only a part of one changes. `invalidate` is INVEPT of an EPT pointer.
    """

    def __init__(self, pages: Pages, invalidate: Callable[[int], None]) -> None:
        self._pages = pages
        self._invalidate = invalidate
        self._root = pages.take()

    @property
    def pointer(self) -> int:
        """The EPT pointer of these tables: write-back, four levels (SDM vol. 3, 25.6.11)."""
        return self._root | _MEMORY_TYPES["write-back"] | _WALK_LENGTH_4

    def __repr__(self) -> str:
        ranges = ", ".join(f"{start:#x}-{end - 1:#x}" for start, end in self._ranges())
        return f"<Ept {self.pointer:#x}: {ranges or 'nothing mapped'}>"

    def map(
        self,
        guest_physical: int,
        physical: int,
        size: int,
        *,
        read: bool = True,
        write: bool = True,
        execute: bool = True,
        memory_type: str = "write-back",
    ) -> None:
        """Map `size` bytes at `guest_physical` to `physical`; what was mapped there is not any more.

        What the processor cannot do, such as write without read, is an EPT misconfiguration when the guest
        gets there. `memory_type` is "write-back", "uncacheable", "write-combining", "write-through" or
        "write-protected".
        """
        _check(guest_physical, physical, size)
        if memory_type not in _MEMORY_TYPES:
            raise VmxError(f"no memory type {memory_type!r}: there are {', '.join(_MEMORY_TYPES)}")
        flags = _permissions(read, write, execute) | _MEMORY_TYPES[memory_type] << _TYPE_SHIFT
        done = 0
        while done < size:
            at, to, rest = guest_physical + done, physical + done, size - done
            if (at | to) % _LARGE_PAGE == 0 and rest >= _LARGE_PAGE:
                self._pages.write_word(self._entry(at, 21), to | flags | _BITS["large"])
                done += _LARGE_PAGE
            else:
                self._pages.write_word(self._entry(at, 12), to | flags)
                done += PAGE
        self._invalidate(self.pointer)

    def unmap(self, guest_physical: int, size: int) -> None:
        """Accesses to `size` bytes at `guest_physical` cause EPT violations."""
        _check(guest_physical, 0, size)
        for at in range(guest_physical, guest_physical + size, PAGE):
            if self.walk(at) is not None:
                self._pages.write_word(self._entry(at, 12), 0)
        self._invalidate(self.pointer)

    def protect(
        self,
        guest_physical: int,
        size: int,
        *,
        read: bool | None = None,
        write: bool | None = None,
        execute: bool | None = None,
    ) -> None:
        """Change what a guest may do with `size` bytes that are mapped; None leaves a permission as it is.

        Raises `VmxError` if some of them are not mapped; those before are changed then.
        """
        _check(guest_physical, 0, size)
        for at in range(guest_physical, guest_physical + size, PAGE):
            if self.walk(at) is None:
                raise VmxError(f"guest-physical address {at:#x} is not mapped: map it first")
            place = self._entry(at, 12)
            entry = self._pages.read_word(place)
            for name, allowed in (("read", read), ("write", write), ("execute", execute)):
                if allowed is not None:
                    entry = entry | _BITS[name] if allowed else entry & ~_BITS[name]
            # Without permissions the entry is not present, and the address in it no use to the processor.
            self._pages.write_word(place, entry)
        self._invalidate(self.pointer)

    def walk(self, guest_physical: int) -> EptPage | None:
        """The page that a guest-physical address is mapped to; None if there is none."""
        table = self._root
        for low in _LEVELS:
            place = table + (guest_physical >> low) % _ENTRIES * 8
            entry = self._pages.read_word(place)
            if entry == 0:
                return None
            if low == 12 or entry & _BITS["large"]:
                return _page(guest_physical, entry, 1 << low)
            table = entry & _ADDRESS
        return None

    def _entry(self, address: int, level: int) -> int:
        """The physical address of the entry for `address` at a level, with all that leads to it."""
        table = self._root
        for low in _LEVELS:
            place = table + (address >> low) % _ENTRIES * 8
            if low == level:
                return place
            entry = self._pages.read_word(place)
            if entry == 0 or entry & _BITS["large"]:
                below = self._pages.take()
                if entry:
                    self._split(entry, low, below)
                entry = below | _PERMISSIONS
                self._pages.write_word(place, entry)
            table = entry & _ADDRESS
        raise AssertionError(level)

    def _split(self, entry: int, low: int, table: int) -> None:
        """Make of a page the `table` of the smaller pages that it consists of."""
        size = 1 << low - 9
        large = _BITS["large"] if low - 9 > 12 else 0
        for index in range(_ENTRIES):
            part = (entry & ~_BITS["large"]) + index * size
            self._pages.write_word(table + index * 8, part | large)

    def _ranges(self) -> Iterator[tuple[int, int]]:
        """What is mapped, as (first address, address after the last), ascending."""
        start = end = 0
        for first, size in self._leaves(self._root, 0, 0):
            if first != end:
                if end > start:
                    yield start, end
                start = first
            end = first + size
        if end > start:
            yield start, end

    def _leaves(self, table: int, level: int, base: int) -> Iterator[tuple[int, int]]:
        low = _LEVELS[level]
        entries = self._pages.read(table, PAGE)
        for index in range(_ENTRIES):
            entry = int.from_bytes(entries[index * 8 : index * 8 + 8], "little")
            first = base | index << low
            if entry and (low == 12 or entry & _BITS["large"]):
                yield first, 1 << low
            elif entry:
                yield from self._leaves(entry & _ADDRESS, level + 1, first)


def _permissions(read: bool, write: bool, execute: bool) -> int:
    allowed = {"read": read, "write": write, "execute": execute}
    return sum(_BITS[name] for name, yes in allowed.items() if yes)


def _page(guest_physical: int, entry: int, size: int) -> EptPage:
    return EptPage(
        guest_physical=guest_physical & -size,
        physical=entry & _ADDRESS & -size,
        size=size,
        read=bool(entry & _BITS["read"]),
        write=bool(entry & _BITS["write"]),
        execute=bool(entry & _BITS["execute"]),
        memory_type=_TYPE_NAMES.get(entry >> _TYPE_SHIFT & 7, "reserved"),
        accessed=bool(entry & _BITS["accessed"]),
        dirty=bool(entry & _BITS["dirty"]),
    )


def _check(guest_physical: int, physical: int, size: int) -> None:
    if (guest_physical | physical | size) % PAGE or min(guest_physical, physical) < 0 or size <= 0:
        raise VmxError(
            f"EPT maps pages: {guest_physical:#x}, {physical:#x} and {size:#x} must be multiples of 0x1000"
        )
