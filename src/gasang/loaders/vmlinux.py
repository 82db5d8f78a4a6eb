"""An x86-64 ELF kernel without a PVH note: taken for a vmlinux and entered by Linux's 64-bit protocol."""

from __future__ import annotations

from gasang.loaders import linux
from gasang.loaders.elf import ElfKernel
from gasang.loaders.image import BootImage, BootRequest

_BOOT_FLAG_AND_JUMP = b"\x55\xaa\xeb\x00"
_PROTOCOL_2_15 = b"\x0f\x02"


def load(kernel: ElfKernel, request: BootRequest) -> BootImage:
    """Lay out the kernel behind a setup header of our own. Raises `KernelError` if something does not fit."""
    before_boot_flag = bytes(0x1FE - linux.SETUP_HEADER)
    setup_header = before_boot_flag + _BOOT_FLAG_AND_JUMP + b"HdrS" + _PROTOCOL_2_15
    return linux.boot(linux.LinuxKernel(kernel, setup_header), request, "ELF (Linux 64-bit)")
