"""The PC's physical memory as firmware reports it (INT 15h, E820h; ACPI 6.5, section 15)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from gasang.firmware.places import LOW_RAM_LIMIT
from gasang.units import GIB, KIB, MIB

LOW_MEMORY_END = 640 * KIB - 1 * KIB
"""Conventional memory ends here; its last KiB is the extended BIOS data area of a PC."""

FIRMWARE_START = 0xE0000
"""Where ACPI tables lie: an operating system looks for the RSDP from here to 1 MiB (ACPI 6.5, 5.2.5.1)."""

FIRMWARE_END = 1 * MIB
TABLES_LENGTH = 128 * KIB
"""Room for ACPI tables."""

HIGH_RAM_START = 4 * GIB


class MemoryType(IntEnum):
    """Address range types (ACPI 6.5, table 15.4). Linux, PVH and multiboot use the same numbers."""

    RAM = 1
    RESERVED = 2
    ACPI = 3
    NVS = 4


@dataclass(frozen=True, slots=True)
class MemoryRange:
    """`length` bytes of physical addresses from `start`."""

    start: int
    length: int
    type: MemoryType

    @property
    def end(self) -> int:
        """The first address behind the range."""
        return self.start + self.length


def tables_below(memory: int) -> int:
    """Where ACPI tables lie if a BIOS has the place below 1 MiB: at the end of the RAM below 4 GiB."""
    return min(memory, LOW_RAM_LIMIT) - TABLES_LENGTH


def memory_map(memory: int, *, has_bios: bool = False) -> tuple[MemoryRange, ...]:
    """The map of a PC with `memory` bytes of RAM (more than 1 MiB), ascending and without overlaps.

    With a BIOS the ACPI tables are elsewhere.
    """
    low_end = min(memory, LOW_RAM_LIMIT)
    tables = tables_below(memory) if has_bios else low_end
    ranges = [
        _range(0, LOW_MEMORY_END, MemoryType.RAM),
        _range(LOW_MEMORY_END, FIRMWARE_END, MemoryType.RESERVED),
        _range(FIRMWARE_END, tables, MemoryType.RAM),
        *([_range(tables, low_end, MemoryType.ACPI)] if has_bios else []),
        _range(0xFEC00000, 0xFEC01000, MemoryType.RESERVED),  # I/O APIC
        _range(0xFED00000, 0xFED01000, MemoryType.RESERVED),  # HPET
        _range(0xFEE00000, 0xFEE01000, MemoryType.RESERVED),  # local APIC
    ]
    if memory > LOW_RAM_LIMIT:
        ranges.append(MemoryRange(HIGH_RAM_START, memory - LOW_RAM_LIMIT, MemoryType.RAM))
    return tuple(ranges)


def _range(start: int, end: int, kind: MemoryType) -> MemoryRange:
    return MemoryRange(start, end - start, kind)
