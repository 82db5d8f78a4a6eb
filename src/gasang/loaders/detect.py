"""Which loader a kernel is for, by its content."""

from __future__ import annotations

from dataclasses import replace

from gasang.errors import KernelError
from gasang.loaders import bzimage, elf, multiboot, pvh, vmlinux
from gasang.loaders.decompress import compression, decompress
from gasang.loaders.image import BootImage, BootRequest

_FOREIGN = (
    (0x38, b"ARM\x64", "an AArch64 Linux kernel"),
    (0x38, b"RSC\x05", "a RISC-V Linux kernel"),
    (0x24, b"\x18\x28\x6f\x01", "a 32-bit Arm Linux kernel"),
    (0x00, b"\x27\x05\x19\x56", "a U-Boot image"),
    (0x04, b"zimg", "a compressed EFI kernel (Arm, RISC-V or LoongArch)"),
)
"""(offset, magic number, what has it): kernels that people may try, none of which is for x86."""


def load(request: BootRequest) -> BootImage:
    """Boot whatever `request.kernel` is: bzImage, multiboot, PVH, Linux vmlinux, or one of them compressed.

    Raises `KernelError` for anything else, by name where it is known.
    """
    kernel = request.kernel
    if bzimage.recognizes(kernel):
        return bzimage.load(_without_modules(request))
    if compression(memoryview(kernel)):
        content = decompress(memoryview(kernel), f"kernel {request.path}")
        if compression(memoryview(content)):
            raise KernelError(f"kernel {request.path} is compressed twice: decompress it first")
        return load(replace(request, kernel=content))
    return _load_plain(request)


def _load_plain(request: BootRequest) -> BootImage:
    kernel, source = request.kernel, f"kernel {request.path}"
    header = multiboot.find_header(kernel)
    if kernel[:4] == elf.MAGIC and not (header and header.has_addresses):
        executable = elf.parse(kernel, source)
        if header and not executable.is_64_bit:
            return multiboot.load(header, request)
        return _load_elf(executable, header, request)
    if header:
        return multiboot.load(header, request)
    raise _not_a_kernel(kernel, source)


def _load_elf(executable: elf.ElfKernel, header: multiboot.Header | None, request: BootRequest) -> BootImage:
    """PVH where a note offers it, multiboot where a header does, and Linux's own protocol for the rest."""
    if executable.pvh_entry is not None:
        return pvh.load(executable, executable.pvh_entry, _without_modules(request))
    if header:
        return multiboot.load(header, request)
    if not executable.is_64_bit:
        raise KernelError(
            f"kernel {request.path} is a 32-bit ELF file with neither a multiboot header nor a PVH note: "
            "there is no agreed way to boot it"
        )
    return vmlinux.load(executable, _without_modules(request))


def _without_modules(request: BootRequest) -> BootRequest:
    if request.modules:
        raise KernelError(f"kernel {request.path} takes no multiboot modules: give it an initrd (--initrd)")
    return request


def _not_a_kernel(kernel: bytes, source: str) -> KernelError:
    for offset, magic, description in _FOREIGN:
        if kernel[offset : offset + len(magic)] == magic:
            return KernelError(f"{source} is {description}: gasang runs x86-64 kernels")
    if len(kernel) < 4096:
        return KernelError(f"{source} is truncated or not a kernel: it has only {len(kernel)} bytes")
    return KernelError(
        f"{source} is not a kernel that gasang knows: neither bzImage, ELF nor multiboot "
        f"(it begins with {kernel[:8].hex(' ')})"
    )
