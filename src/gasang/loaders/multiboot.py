"""Multiboot 1 (specification 0.6.96): what GRUB boots, and hypervisors and test kernels are made for.

The kernel is entered in protected mode with paging off, EAX holding a magic number and EBX pointing to the
boot information: memory, command line, modules. All of it lies below 4 GiB.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from gasang.errors import KernelError
from gasang.firmware.memory_map import FIRMWARE_END, HIGH_RAM_START, LOW_MEMORY_END, MemoryRange, MemoryType
from gasang.loaders import elf
from gasang.loaders.image import BootImage, BootRequest, Segment
from gasang.loaders.placement import PAGE, Placement
from gasang.loaders.processor import protected_mode
from gasang.units import KIB

_HEADER_MAGIC = 0x1BADB002
_BOOTLOADER_MAGIC = 0x2BADB002
_SEARCHED = 8192
_INFORMATION_SIZE = 116

_ALIGN_MODULES, _WANT_MEMORY, _WANT_VIDEO, _HAS_ADDRESSES = 1 << 0, 1 << 1, 1 << 2, 1 << 16
_MANDATORY = 0xFFFF
_SUPPORTED = _ALIGN_MODULES | _WANT_MEMORY | _WANT_VIDEO

_HAS_MEMORY, _HAS_COMMAND_LINE, _HAS_MODULES, _HAS_MEMORY_MAP, _HAS_LOADER_NAME = (
    1 << 0,
    1 << 2,
    1 << 3,
    1 << 6,
    1 << 9,
)


@dataclass(frozen=True, slots=True)
class Header:
    """The multiboot header, at `offset` in the file; its addresses are for a kernel that is no ELF file."""

    offset: int
    flags: int
    header_address: int = 0
    load_address: int = 0
    load_end: int = 0
    bss_end: int = 0
    entry: int = 0

    @property
    def has_addresses(self) -> bool:
        return bool(self.flags & _HAS_ADDRESSES)


def find_header(content: bytes) -> Header | None:
    """The header, if there is one: 4-aligned in the first 8 KiB, magic, flags and checksum adding up to 0."""
    for offset in range(0, min(len(content), _SEARCHED) - 11, 4):
        magic, flags, checksum = struct.unpack_from("<III", content, offset)
        if magic == _HEADER_MAGIC and (magic + flags + checksum) & 0xFFFFFFFF == 0:
            return _with_addresses(Header(offset, flags), content)
    return None


def load(request: BootRequest) -> BootImage:
    """Lay out kernel, modules and boot information. Raises `KernelError` if something does not fit."""
    source = f"kernel {request.path}"
    header = find_header(request.kernel)
    if header is None:
        raise KernelError(f"{source} has no multiboot header")
    if unknown := header.flags & _MANDATORY & ~_SUPPORTED:
        raise KernelError(f"{source} needs multiboot features that gasang does not have (flags {unknown:#x})")
    placement = Placement(request.memory_map)
    if header.has_addresses:
        segments, entry = _load_by_addresses(header, request.kernel, placement, source)
    else:
        kernel = elf.parse(request.kernel, source)
        segments, entry = kernel.load(placement, "the kernel's"), kernel.physical_entry
    if entry >= HIGH_RAM_START:
        raise KernelError(f"{source} is entered at {entry:#x}: multiboot kernels begin below 4 GiB")
    kernel_end = max(each.address + len(each.data) for each in segments)
    boot_segments, information = _boot_information(request, placement, kernel_end)
    registers = {**protected_mode(entry), "rax": _BOOTLOADER_MAGIC, "rbx": information}
    return BootImage("multiboot", segments + boot_segments, registers)


def _with_addresses(header: Header, content: bytes) -> Header:
    if not header.has_addresses or header.offset + 32 > len(content):
        return header
    addresses = struct.unpack_from("<5I", content, header.offset + 12)
    return Header(header.offset, header.flags, *addresses)


def _load_by_addresses(
    header: Header, content: bytes, placement: Placement, source: str
) -> tuple[list[Segment], int]:
    """A kernel that says itself where it goes (specification 3.1.3); the file is loaded as one piece."""
    offset = header.offset - (header.header_address - header.load_address)
    length = header.load_end - header.load_address if header.load_end else len(content) - offset
    if not 0 <= offset <= header.offset or length <= 0:
        raise KernelError(f"{source} is damaged: its multiboot addresses contradict each other")
    if offset + length > len(content):
        raise KernelError(
            f"{source} is truncated: it ends before byte {offset + length}, where its data ends"
        )
    size = max(length, header.bss_end - header.load_address)
    placement.claim(header.load_address, size, "the kernel")
    data = memoryview(content)[offset : offset + length]
    return [Segment(header.load_address, data, "kernel")], header.entry


def _boot_information(
    request: BootRequest, placement: Placement, kernel_end: int
) -> tuple[list[Segment], int]:
    """Modules behind the kernel, the rest in low memory; return what to write, and EBX."""
    modules = [_place_module(placement, *module, start=kernel_end) for module in _modules(request)]
    lines = [_place(placement, line.encode() + b"\0", "module command line") for _, line in _modules(request)]
    module_list = _place(placement, _module_list(modules, lines), "module list")
    memory_map = _place(placement, _memory_map(request.memory_map), "memory map")
    # The first word is the kernel's own name: kernels skip it, as GRUB 1 and QEMU have it.
    command_line = _place(placement, f"{request.path} {request.append}".encode() + b"\0", "command line")
    loader_name = _place(placement, b"gasang\0", "loader name")
    information = bytearray(_INFORMATION_SIZE)

    def put(offset: int, *values: int) -> None:
        struct.pack_into(f"<{len(values)}I", information, offset, *values)

    flags = _HAS_MEMORY | _HAS_COMMAND_LINE | _HAS_MODULES | _HAS_MEMORY_MAP | _HAS_LOADER_NAME
    put(0, flags, LOW_MEMORY_END // KIB, _upper_memory(request.memory_map) // KIB)
    put(16, command_line.address, len(modules), module_list.address)
    put(44, len(memory_map.data), memory_map.address)
    put(64, loader_name.address)
    start = _place(placement, bytes(information), "boot information")
    return [*modules, *lines, module_list, memory_map, command_line, loader_name, start], start.address


def _modules(request: BootRequest) -> list[tuple[memoryview, str]]:
    """The modules asked for; an initrd that is no list of modules is one without arguments."""
    initrd = [(request.initrd, "initrd")] if request.initrd is not None else []
    return [*request.modules, *initrd]


def _place_module(placement: Placement, content: memoryview, line: str, *, start: int) -> Segment:
    purpose = f"module {line.partition(' ')[0]}"
    address = placement.lowest(max(len(content), 1), purpose, start=start, align=PAGE)
    if address + len(content) > HIGH_RAM_START:
        raise KernelError(f"{purpose} does not fit below 4 GiB, where multiboot modules must lie")
    return Segment(address, content, purpose)


def _place(placement: Placement, data: bytes, purpose: str) -> Segment:
    return Segment(placement.lowest(max(len(data), 1), f"the {purpose}", align=16), data, purpose)


def _module_list(modules: Sequence[Segment], lines: Sequence[Segment]) -> bytes:
    """Per module: start, end, command line, 0 (specification 3.3)."""
    return b"".join(
        struct.pack("<4I", module.address, module.address + len(module.data), line.address, 0)
        for module, line in zip(modules, lines, strict=True)
    )


def _memory_map(ranges: Sequence[MemoryRange]) -> bytes:
    """Per range: the size of the rest of the entry, start, length, type."""
    return b"".join(struct.pack("<IQQI", 20, each.start, each.length, each.type) for each in ranges)


def _upper_memory(ranges: Sequence[MemoryRange]) -> int:
    """The bytes of RAM from 1 MiB to the first hole."""
    return sum(each.length for each in ranges if each.start == FIRMWARE_END and each.type is MemoryType.RAM)
