"""Which loader a kernel gets, and what is said about files that are no kernels for this machine."""

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernels import (
    AARCH64,
    I386,
    bzimage,
    elf,
    gzip,
    multiboot_elf,
    multiboot_header,
    pvh_note,
    request,
    vmlinux,
)

from gasang import loaders
from gasang.errors import KernelError
from gasang.units import MIB

SEGMENT = [(2 * MIB, 2 * MIB, b"code", 4)]


@pytest.mark.parametrize(
    ("kernel", "protocol"),
    [
        (bzimage(gzip(vmlinux())), "bzImage (gzip)"),
        (vmlinux(), "ELF (Linux 64-bit)"),
        (elf(SEGMENT, entry=0, notes=pvh_note(2 * MIB)), "ELF (PVH)"),
        (multiboot_elf(), "multiboot"),
    ],
)
def test_the_loader_is_chosen_by_content(kernel, protocol, tmp_path):
    assert loaders.load(request(kernel, tmp_path)).protocol == protocol


def test_a_compressed_file_is_unwrapped():
    assert loaders.unwrap(gzip(multiboot_elf()), "kernel k") == multiboot_elf()
    assert loaders.unwrap(vmlinux(), "kernel k") == vmlinux()


@pytest.mark.parametrize(
    ("kernel", "answer"),
    [
        (multiboot_elf(), True),
        (multiboot_elf(bits=64), True),
        (multiboot_header(0) + bytes(100), True),
        (multiboot_elf(bits=64, notes=pvh_note(MIB)), False),
        (vmlinux(), False),
        (bzimage(gzip(vmlinux())), False),
        (b"", False),
    ],
)
def test_multiboot_kernels_are_recognized(kernel, answer):
    assert loaders.is_multiboot(kernel, "kernel k") is answer


def test_a_header_beyond_8_kib_does_not_count():
    assert not loaders.is_multiboot(bytes(8192) + multiboot_header(0), "kernel k")


def foreign(offset, magic):
    return bytes(offset) + magic + bytes(8000)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (foreign(56, b"ARM\x64"), "is an AArch64 Linux kernel: gasang runs x86-64 kernels"),
        (elf(SEGMENT, entry=0, machine=AARCH64), "is a kernel for AArch64"),
        (foreign(56, b"RSC\x05"), "is a RISC-V Linux kernel"),
        (foreign(36, struct.pack("<I", 0x016F2818)), "is a 32-bit Arm Linux kernel"),
        (foreign(0, b"\x27\x05\x19\x56"), "is a U-Boot image"),
        (foreign(4, b"zimg"), "is a compressed EFI kernel"),
        (elf(SEGMENT, entry=0, bits=32, machine=I386), "neither a multiboot header nor a PVH note"),
        (b"", "is truncated or not a kernel: it has only 0 bytes"),
        (b"#!/bin/sh\n", "is truncated or not a kernel: it has only 10 bytes"),
        (b"PK\x03\x04" + bytes(9000), r"neither bzImage, ELF nor multiboot \(it begins with 50 4b 03 04"),
        (vmlinux()[:70], "is a truncated or damaged ELF file"),
    ],
)
def test_what_is_no_kernel_for_us_says_what_it_is(kernel, message, tmp_path):
    with pytest.raises(KernelError, match=message) as caught:
        loaders.load(request(kernel, tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kernel", [bzimage(gzip(vmlinux())), vmlinux()])
def test_modules_are_for_multiboot_only(kernel, tmp_path):
    with pytest.raises(KernelError, match="takes no multiboot modules: give it an initrd"):
        loaders.load(request(kernel, tmp_path, modules=[(memoryview(b"m"), "m")]))


KERNELS = (
    bzimage(gzip(vmlinux())),
    vmlinux(),
    elf(SEGMENT, entry=0, notes=pvh_note(2 * MIB)),
    multiboot_elf(),
)


@given(st.data())
def test_damaged_kernels_raise_nothing_but_kernel_error(data):
    kernel = bytearray(data.draw(st.sampled_from(KERNELS)))
    for _ in range(data.draw(st.integers(1, 4))):
        kernel[data.draw(st.integers(0, len(kernel) - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.integers(0, len(kernel)))
    with contextlib.suppress(KernelError):
        loaders.load(request(bytes(kernel[:length]), Path("/nowhere"), initrd=memoryview(b"ramdisk")))
