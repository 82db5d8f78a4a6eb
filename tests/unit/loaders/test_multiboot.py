"""Multiboot 1: headers, images with and without ELF, modules and the boot information."""

import struct

import pytest
from kernels import Memory, multiboot_elf, multiboot_header, overlaps, pvh_note, request

from gasang import loaders
from gasang.errors import KernelError
from gasang.firmware.memory_map import memory_map
from gasang.units import GIB, MIB

ADDRESSES = 1 << 16


def load(kernel, tmp_path, **rest):
    image = loaders.load(request(kernel, tmp_path, **rest))
    assert overlaps(image) == []
    return image, Memory(image)


def information(image, memory):
    return dict(
        zip(
            ("flags", "lower", "upper", "device", "command_line", "modules", "module_list"),
            memory.unpack("<7I", image.registers["rbx"]),
            strict=True,
        )
    )


@pytest.mark.parametrize("bits", [32, 64])
def test_an_elf_kernel_is_entered_with_the_magic_number(tmp_path, bits):
    image, memory = load(multiboot_elf(bits=bits), tmp_path)
    assert image.protocol == "multiboot"
    assert image.registers["rax"] == 0x2BADB002
    assert image.registers["rip"] == MIB + 12
    assert image.registers["cr0"] & 0x8000_0001 == 1
    assert memory.read(MIB + 12, 1) == b"\xf4"


def test_a_32_bit_kernel_with_both_headers_is_booted_by_multiboot(tmp_path):
    assert load(multiboot_elf(notes=pvh_note(MIB)), tmp_path)[0].protocol == "multiboot"


def test_a_64_bit_kernel_with_both_headers_is_booted_by_pvh(tmp_path):
    assert load(multiboot_elf(bits=64, notes=pvh_note(MIB)), tmp_path)[0].protocol == "ELF (PVH)"


def flat(*, load_end=0, bss_end=0, header_address=3 * MIB + 16):
    """A kernel that is no ELF file: 16 bytes of code, the header, and more code."""
    header = multiboot_header(ADDRESSES, header_address, 3 * MIB, load_end, bss_end, 3 * MIB + 4)
    return b"\x90" * 16 + header + b"\xf4" * 4000


def test_a_flat_kernel_goes_where_its_header_says(tmp_path):
    image, memory = load(flat(), tmp_path)
    assert image.registers["rip"] == 3 * MIB + 4
    assert memory.read(3 * MIB, 4096) == flat().ljust(4096, b"\0")


def test_a_flat_kernel_is_loaded_to_its_end_only(tmp_path):
    _, memory = load(flat(load_end=3 * MIB + 64, bss_end=3 * MIB + 4096), tmp_path)
    assert memory.read(3 * MIB, 80) == flat(load_end=3 * MIB + 64, bss_end=3 * MIB + 4096)[:64] + bytes(16)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (flat(load_end=3 * MIB + 9000), "is truncated: it ends before byte 9000"),
        (flat(header_address=4 * MIB), "its multiboot addresses contradict each other"),
        (multiboot_elf(flags=1 << 5), r"needs multiboot features that gasang does not have \(flags 0x20\)"),
    ],
)
def test_kernels_that_cannot_be_booted_say_why(kernel, message, tmp_path):
    with pytest.raises(KernelError, match=message):
        loaders.load(request(kernel, tmp_path))


def test_boot_information_tells_memory_and_command_line(tmp_path):
    image, memory = load(multiboot_elf(), tmp_path, append="verbose=1", memory=5 * GIB)
    info = information(image, memory)
    assert info["flags"] == 0b10_0100_1101
    assert (info["lower"], info["upper"]) == (639, 3 * 1024 * 1024 - 1024)
    assert memory.string(info["command_line"]) == f"{tmp_path}/kernel verbose=1".encode()
    (name,) = memory.unpack("<I", image.registers["rbx"] + 64)
    assert memory.string(name) == b"gasang"


def test_the_memory_map_is_handed_on(tmp_path):
    image, memory = load(multiboot_elf(), tmp_path, memory=5 * GIB)
    length, address = memory.unpack("<II", image.registers["rbx"] + 44)
    entries = list(struct.iter_unpack("<IQQI", memory.read(address, length)))
    assert entries == [(20, each.start, each.length, each.type) for each in memory_map(5 * GIB)]


def test_modules_lie_behind_the_kernel_with_their_command_lines(tmp_path):
    modules = [
        (memoryview(b"first"), "a.bin one two"),
        (memoryview(b"x" * 5000), "b.bin"),
        (memoryview(b""), "c"),
    ]
    image, memory = load(multiboot_elf(), tmp_path, modules=modules)
    info = information(image, memory)
    entries = [memory.unpack("<4I", info["module_list"] + 16 * index) for index in range(info["modules"])]
    contents = [memory.read(start, end - start) for start, end, _, _ in entries]
    assert contents == [bytes(content) for content, _ in modules]
    assert [memory.string(line) for _, _, line, _ in entries] == [b"a.bin one two", b"b.bin", b"c"]
    assert all(start >= MIB + 0x2000 and start % 4096 == 0 for start, *_ in entries)


def test_an_initrd_is_a_module(tmp_path):
    image, memory = load(multiboot_elf(), tmp_path, initrd=memoryview(b"ramdisk"))
    info = information(image, memory)
    start, end, _, _ = memory.unpack("<4I", info["module_list"])
    assert info["modules"] == 1
    assert memory.read(start, end - start) == b"ramdisk"


def test_a_module_larger_than_memory_is_an_error(tmp_path):
    class Huge:
        def __len__(self):
            return 70 * MIB

    with pytest.raises(KernelError, match=r"module big\.bin of 70M does not fit"):
        loaders.load(request(multiboot_elf(), tmp_path, modules=[(Huge(), "big.bin arg")]))
