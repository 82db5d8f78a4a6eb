"""The processor as the boot protocols want it: flat segments, and long mode with identity-mapped memory."""

from __future__ import annotations

import struct

from gasang.loaders.image import Registers, Segment, SegmentRegister, TableRegister
from gasang.loaders.placement import PAGE, Placement
from gasang.units import GIB, MIB

_PRESENT_CODE = 0x9B
"""Access byte: present, DPL 0, code, readable, accessed (SDM vol. 3, 3.4.5)."""

_PRESENT_DATA = 0x93
_BUSY_TSS = 0x8B
_GRANULARITY, _BIG, _LONG, _UNUSABLE = 1 << 15, 1 << 14, 1 << 13, 1 << 16
_FLAT_LIMIT = 0xFFFFFFFF

CODE_SELECTOR = 0x10
DATA_SELECTOR = 0x18

_CODE_32 = SegmentRegister(CODE_SELECTOR, 0, _FLAT_LIMIT, _PRESENT_CODE | _GRANULARITY | _BIG)
_CODE_64 = SegmentRegister(CODE_SELECTOR, 0, _FLAT_LIMIT, _PRESENT_CODE | _GRANULARITY | _LONG)
_DATA = SegmentRegister(DATA_SELECTOR, 0, _FLAT_LIMIT, _PRESENT_DATA | _GRANULARITY | _BIG)
_TASK = SegmentRegister(0, 0, 0x67, _BUSY_TSS)
_NO_LDT = SegmentRegister(0, 0, 0, _UNUSABLE)

_CR0_PE, _CR0_ET, _CR0_PG = 1 << 0, 1 << 4, 1 << 31
_CR4_PAE = 1 << 5
_EFER_LME, _EFER_LMA = 1 << 8, 1 << 10
_RFLAGS_RESERVED = 1 << 1

_PAGE_PRESENT, _PAGE_WRITABLE, _PAGE_LARGE = 1 << 0, 1 << 1, 1 << 7
_MAPPED = 4 * GIB


def protected_mode(entry: int) -> dict[str, int | SegmentRegister | TableRegister]:
    """32-bit protected mode with flat segments, paging and interrupts off, about to execute `entry`."""
    return {
        **_flat_segments(_CODE_32),
        "rip": entry,
        "rflags": _RFLAGS_RESERVED,
        "cr0": _CR0_PE | _CR0_ET,
        "cr3": 0,
        "cr4": 0,
        "efer": 0,
    }


def long_mode(
    entry: int, page_tables: int, gdt: TableRegister
) -> dict[str, int | SegmentRegister | TableRegister]:
    """64-bit mode with interrupts off, paging through `page_tables`, about to execute `entry`."""
    return {
        **_flat_segments(_CODE_64),
        "gdtr": gdt,
        "rip": entry,
        "rflags": _RFLAGS_RESERVED,
        "cr3": page_tables,
        "cr4": _CR4_PAE,
        "efer": _EFER_LME | _EFER_LMA,
        "cr0": _CR0_PE | _CR0_ET | _CR0_PG,
    }


def place_gdt(placement: Placement) -> tuple[TableRegister, Segment]:
    """A descriptor table with flat 64-bit code at 0x10 and data at 0x18, as Linux's boot protocol asks."""
    code = _descriptor(_CODE_64)
    data = _descriptor(_DATA)
    table = struct.pack("<4Q", 0, 0, code, data)
    address = placement.lowest(len(table), "the descriptor table", align=8)
    return TableRegister(address, len(table) - 1), Segment(address, table, "descriptor table")


def place_identity_map(placement: Placement) -> Segment:
    """Page tables that map the first 4 GiB to themselves in 2 MiB pages; the segment begins with the PML4."""
    directories = _MAPPED // GIB
    address = placement.lowest((2 + directories) * PAGE, "the page tables")
    pointers = address + PAGE
    directory_pages = pointers + PAGE
    table = _PAGE_PRESENT | _PAGE_WRITABLE
    pml4 = struct.pack("<Q", pointers | table).ljust(PAGE, b"\0")
    pdpt = b"".join(
        struct.pack("<Q", directory_pages + index * PAGE | table) for index in range(directories)
    ).ljust(PAGE, b"\0")
    pages = b"".join(struct.pack("<Q", page | table | _PAGE_LARGE) for page in range(0, _MAPPED, 2 * MIB))
    return Segment(address, pml4 + pdpt + pages, "page tables")


def _flat_segments(code: SegmentRegister) -> Registers:
    data = dict.fromkeys(("ds", "es", "fs", "gs", "ss"), _DATA)
    return {**data, "cs": code, "tr": _TASK, "ldtr": _NO_LDT, "idtr": TableRegister(0, 0)}


def _descriptor(register: SegmentRegister) -> int:
    """The descriptor of a flat segment: access byte at bit 40, limit 19:16 at 48, flags at 52 (SDM 3.4.5)."""
    access = register.attributes & 0xFF
    flags = register.attributes >> 12 & 0xF
    return 0xFFFF | access << 40 | 0xF << 48 | flags << 52
