"""Linux's 64-bit boot protocol (Documentation/arch/x86/boot.rst, zero-page.rst), for a decompressed kernel.

RSI points to `boot_params`, the "zero page"; memory is identity-mapped; CS is 0x10, the data segments 0x18.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from gasang.errors import KernelError
from gasang.firmware.memory_map import MemoryRange
from gasang.loaders.elf import ElfKernel
from gasang.loaders.image import BootImage, BootRequest, Segment
from gasang.loaders.placement import PAGE, Placement
from gasang.loaders.processor import long_mode, place_gdt, place_identity_map

SETUP_HEADER = 0x1F1
"""Where the setup header begins, in a bzImage and in `boot_params`."""

_ACPI_RSDP_ADDRESS = 0x070
_EXT_RAMDISK_IMAGE, _EXT_RAMDISK_SIZE = 0x0C0, 0x0C4
_E820_ENTRIES, _E820_TABLE, _E820_MAXIMUM = 0x1E8, 0x2D0, 128
_VIDEO_MODE = 0x1FA
_TYPE_OF_LOADER, _LOAD_FLAGS = 0x210, 0x211
_RAMDISK_IMAGE, _RAMDISK_SIZE = 0x218, 0x21C
_COMMAND_LINE = 0x228

_NO_VIDEO_MODE_CHANGE = 0xFFFF
_UNREGISTERED_LOADER = 0xFF
_LOADED_HIGH = 1
_ADDRESS_SPACE_END = 1 << 52


@dataclass(frozen=True, slots=True)
class LinuxKernel:
    """A decompressed kernel, and what its setup header says of it.

    `setup_header` is copied into `boot_params`; `initrd_limit` is the first address that no initrd may reach,
    unless `initrd_above_4g`; `command_line_limit` is the longest command line in bytes, without its NUL.
    """

    elf: ElfKernel
    setup_header: bytes
    command_line_limit: int = 2047
    initrd_limit: int = 0x8000_0000
    initrd_above_4g: bool = True


def boot(kernel: LinuxKernel, request: BootRequest, protocol: str) -> BootImage:
    """Lay out kernel, initrd and boot parameters in memory. Raises `KernelError` if they do not fit."""
    placement = Placement(request.memory_map)
    segments = kernel.elf.load(placement, "the kernel's")
    identity_map = place_identity_map(placement)
    gdt, gdt_segment = place_gdt(placement)
    command_line = _place_command_line(kernel, request.append, placement)
    segments += [identity_map, gdt_segment, command_line]
    initrd = None
    if request.initrd:
        initrd = _place_initrd(kernel, request.initrd, placement)
        segments.append(initrd)
    zero_page = placement.lowest(PAGE, "boot_params")
    parameters = _boot_params(kernel, request, command_line, initrd)
    segments.append(Segment(zero_page, parameters, "boot_params"))
    registers = long_mode(kernel.elf.physical_entry, identity_map.address, gdt)
    return BootImage(protocol, segments, {**registers, "rsi": zero_page})


def _place_command_line(kernel: LinuxKernel, append: str, placement: Placement) -> Segment:
    line = append.encode()
    if len(line) > kernel.command_line_limit:
        raise KernelError(
            f"the kernel command line has {len(line)} bytes: "
            f"this kernel takes {kernel.command_line_limit} at most"
        )
    address = placement.lowest(len(line) + 1, "the command line", align=16)
    return Segment(address, line + b"\0", "command line")


def _place_initrd(kernel: LinuxKernel, initrd: memoryview, placement: Placement) -> Segment:
    """As high as the kernel allows: below its limit first, then anywhere, if it can read an initrd there."""
    ends = [kernel.initrd_limit, _ADDRESS_SPACE_END] if kernel.initrd_above_4g else [kernel.initrd_limit]
    address = placement.highest(len(initrd), "the initrd", ends=ends)
    return Segment(address, initrd, "initrd")


def _boot_params(
    kernel: LinuxKernel, request: BootRequest, command_line: Segment, initrd: Segment | None
) -> bytes:
    page = bytearray(PAGE)
    page[SETUP_HEADER : SETUP_HEADER + len(kernel.setup_header)] = kernel.setup_header
    struct.pack_into("<Q", page, _ACPI_RSDP_ADDRESS, request.rsdp_address)
    struct.pack_into("<H", page, _VIDEO_MODE, _NO_VIDEO_MODE_CHANGE)
    page[_TYPE_OF_LOADER] = _UNREGISTERED_LOADER
    page[_LOAD_FLAGS] |= _LOADED_HIGH
    struct.pack_into("<I", page, _COMMAND_LINE, command_line.address)
    if initrd is not None:
        _put_wide(page, _RAMDISK_IMAGE, _EXT_RAMDISK_IMAGE, initrd.address)
        _put_wide(page, _RAMDISK_SIZE, _EXT_RAMDISK_SIZE, len(initrd.data))
    _put_e820(page, request.memory_map)
    return bytes(page)


def _put_wide(page: bytearray, low: int, high: int, value: int) -> None:
    """A 64-bit value in two fields far apart."""
    struct.pack_into("<I", page, low, value & 0xFFFFFFFF)
    struct.pack_into("<I", page, high, value >> 32)


def _put_e820(page: bytearray, memory_map: Sequence[MemoryRange]) -> None:
    entries = memory_map[:_E820_MAXIMUM]
    page[_E820_ENTRIES] = len(entries)
    for index, each in enumerate(entries):
        struct.pack_into("<QQI", page, _E820_TABLE + 20 * index, each.start, each.length, each.type)
