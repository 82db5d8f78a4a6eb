"""Which loader a kernel is for, by its content."""

from __future__ import annotations

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
    """Boot what `request.kernel` is: bzImage, multiboot, PVH or vmlinux; `unwrap` it first.

    Raises `KernelError` for anything else, by name where it is known.
    """
    kernel, source = request.kernel, f"kernel {request.path}"
    if bzimage.recognizes(kernel):
        return bzimage.load(_without_modules(request))
    if is_multiboot(kernel, source):
        return multiboot.load(request)
    if kernel[:4] == elf.MAGIC:
        return _load_elf(elf.parse(kernel, source), _without_modules(request))
    raise _not_a_kernel(kernel, source)


def unwrap(content: bytes, source: str) -> bytes:
    """`content`, decompressed if the whole file is compressed, as `xen.gz` is; a bzImage is not."""
    if not compression(memoryview(content)):
        return content
    return decompress(memoryview(content), source)


def is_multiboot(kernel: bytes, source: str) -> bool:
    """Whether multiboot is how to boot it; a 64-bit kernel that offers PVH too is booted by that.

    Raises `KernelError` if it is a damaged ELF file.
    """
    header = multiboot.find_header(kernel)
    if header is None or bzimage.recognizes(kernel):
        return False
    if header.has_addresses or kernel[:4] != elf.MAGIC:
        return True
    executable = elf.parse(kernel, source)
    return not executable.is_64_bit or executable.pvh_entry is None


def _load_elf(executable: elf.ElfKernel, request: BootRequest) -> BootImage:
    """By PVH where a note offers it, by Linux's own protocol if the kernel has 64 bits."""
    if executable.pvh_entry is not None:
        return pvh.load(executable, executable.pvh_entry, request)
    if not executable.is_64_bit:
        raise KernelError(
            f"kernel {request.path} is a 32-bit ELF file with neither a multiboot header nor a PVH note: "
            "there is no agreed way to boot it"
        )
    return vmlinux.load(executable, request)


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
