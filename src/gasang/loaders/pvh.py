"""PVH: a kernel whose ELF note names a 32-bit entry point (Xen, docs/misc/pvh.pandoc).

It is entered in protected mode with paging off; EBX points to `hvm_start_info`, which leads to everything
else (Xen, xen/include/public/arch-x86/hvm/start_info.h).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from gasang.firmware.memory_map import HIGH_RAM_START, MemoryRange
from gasang.loaders.elf import ElfKernel
from gasang.loaders.image import BootImage, BootRequest, Segment
from gasang.loaders.placement import PAGE, Placement
from gasang.loaders.processor import protected_mode

_START_INFO_MAGIC = 0x336EC578
_START_INFO_VERSION = 1
_START_INFO_SIZE = 56


def load(kernel: ElfKernel, entry: int, request: BootRequest) -> BootImage:
    """Lay out a kernel that is entered at `entry`. Raises `KernelError` if something does not fit."""
    placement = Placement(request.memory_map)
    segments = kernel.load(placement, "the kernel's")
    command_line = _place(placement, request.append.encode() + b"\0", "command line")
    memory_map = _place(placement, _memory_map(request.memory_map), "memory map")
    modules = _place_modules(placement, request)
    module_list = _place(placement, _module_list(modules), "module list")
    start_info = struct.pack(
        "<IIIIQQQQII",
        _START_INFO_MAGIC,
        _START_INFO_VERSION,
        0,
        len(modules),
        module_list.address if modules else 0,
        command_line.address,
        request.rsdp_address,
        memory_map.address,
        len(request.memory_map),
        0,
    )
    info = _place(placement, start_info, "hvm_start_info")
    segments += [command_line, memory_map, *modules, module_list, info]
    return BootImage("ELF (PVH)", segments, {**protected_mode(entry), "rbx": info.address})


def _place(placement: Placement, data: bytes, purpose: str) -> Segment:
    return Segment(placement.lowest(len(data), f"the {purpose}", align=16), data, purpose)


def _place_modules(placement: Placement, request: BootRequest) -> list[Segment]:
    """The initrd is the only module that the protocol gives a meaning to."""
    if not request.initrd:
        return []
    address = placement.highest(len(request.initrd), "the initrd", ends=[1 << 31, HIGH_RAM_START], align=PAGE)
    return [Segment(address, request.initrd, "initrd")]


def _memory_map(ranges: Sequence[MemoryRange]) -> bytes:
    """`hvm_memmap_table_entry` each: address, size, type as in e820, 0."""
    return b"".join(struct.pack("<QQII", each.start, each.length, each.type, 0) for each in ranges)


def _module_list(modules: Sequence[Segment]) -> bytes:
    """`hvm_modlist_entry` each: address, size, command line (none), 0."""
    return b"".join(struct.pack("<QQQQ", each.address, len(each.data), 0, 0) for each in modules)
