"""bzImage: Linux's compressed kernel with its setup header (Documentation/arch/x86/boot.rst).

The kernel proper is decompressed here, on the host, and entered directly: the decompressor that the file
carries never runs. Nor does its address randomization: the kernel lies where it was linked.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from gasang.errors import KernelError
from gasang.loaders import elf, linux
from gasang.loaders.decompress import compression, decompress
from gasang.loaders.image import BootImage, BootRequest

_SECTOR = 512
_MINIMUM_PROTOCOL = 0x0208
"""The first protocol that says where the compressed kernel lies (Linux 2.6.26)."""

_SETUP_SECTORS, _SYSTEM_SIZE, _BOOT_FLAG = 0x1F1, 0x1F4, 0x1FE
_JUMP_OFFSET, _MAGIC, _PROTOCOL = 0x201, 0x202, 0x206
_INITRD_MAXIMUM, _EXTRA_LOAD_FLAGS, _COMMAND_LINE_SIZE = 0x22C, 0x236, 0x238
_PAYLOAD_OFFSET, _PAYLOAD_LENGTH = 0x248, 0x24C
_HEADER_END = 0x250

_HAS_64_BIT_ENTRY, _CAN_LOAD_ABOVE_4G = 1 << 0, 1 << 1


@dataclass(frozen=True, slots=True)
class SetupHeader:
    """The fields that matter to us, by their names in boot.rst."""

    raw: bytes
    version: int
    setup_sects: int
    syssize: int
    initrd_addr_max: int
    xloadflags: int
    cmdline_size: int
    payload_offset: int
    payload_length: int

    @property
    def payload(self) -> slice:
        """Where the compressed kernel lies in the file."""
        start = (self.setup_sects + 1) * _SECTOR + self.payload_offset
        return slice(start, start + self.payload_length)


def recognizes(content: bytes) -> bool:
    """Whether `content` begins as a bzImage does."""
    return content[_BOOT_FLAG : _BOOT_FLAG + 2] == b"\x55\xaa" and content[_MAGIC : _MAGIC + 4] == b"HdrS"


def load(request: BootRequest) -> BootImage:
    """Decompress and lay out the kernel. Raises `KernelError` if it is cut, damaged or too old."""
    source = f"kernel {request.path}"
    header = parse_header(request.kernel, source)
    payload = memoryview(request.kernel)[header.payload]
    vmlinux = bytes(payload) if payload[:4] == elf.MAGIC else decompress(payload, source)
    kernel = linux.LinuxKernel(
        elf=elf.parse(vmlinux, f"the kernel inside {request.path}"),
        setup_header=header.raw,
        command_line_limit=header.cmdline_size,
        initrd_limit=header.initrd_addr_max + 1,
        initrd_above_4g=bool(header.xloadflags & _CAN_LOAD_ABOVE_4G),
    )
    return linux.boot(kernel, request, f"bzImage ({compression(payload) or 'uncompressed'})")


def parse_header(content: bytes, source: str) -> SetupHeader:
    """Read the setup header. Raises `KernelError` if the file is shorter than it says, or too old."""
    if len(content) < _HEADER_END:
        raise KernelError(f"{source} is truncated: its {len(content)} bytes end inside the setup header")
    version = _field(content, "<H", _PROTOCOL)
    if version < _MINIMUM_PROTOCOL:
        raise KernelError(
            f"{source} has boot protocol {version >> 8}.{version & 0xFF:02}: "
            "gasang needs 2.08 (Linux 2.6.26) or later"
        )
    header = SetupHeader(
        raw=content[linux.SETUP_HEADER : _MAGIC + content[_JUMP_OFFSET]],
        version=version,
        setup_sects=content[_SETUP_SECTORS] or 4,  # 0 means 4, for very old kernels
        syssize=_field(content, "<I", _SYSTEM_SIZE),
        initrd_addr_max=_field(content, "<I", _INITRD_MAXIMUM),
        xloadflags=_field(content, "<H", _EXTRA_LOAD_FLAGS) if version >= 0x020C else 0,
        cmdline_size=_field(content, "<I", _COMMAND_LINE_SIZE),
        payload_offset=_field(content, "<I", _PAYLOAD_OFFSET),
        payload_length=_field(content, "<I", _PAYLOAD_LENGTH),
    )
    _check(header, content, source)
    return header


def _check(header: SetupHeader, content: bytes, source: str) -> None:
    promised = max((header.setup_sects + 1) * _SECTOR + header.syssize * 16, header.payload.stop)
    if len(content) < promised:
        raise KernelError(
            f"{source} is truncated: it has {len(content)} bytes, its header promises {promised}"
        )
    if not header.payload_length:
        raise KernelError(f"{source} holds no compressed kernel: is it a bzImage for another boot loader?")
    if header.version >= 0x020C and not header.xloadflags & _HAS_64_BIT_ENTRY:
        raise KernelError(f"{source} is a 32-bit x86 kernel: gasang runs x86-64 Linux kernels")


def _field(content: bytes, layout: str, offset: int) -> int:
    value: int = struct.unpack_from(layout, content, offset)[0]
    return value
