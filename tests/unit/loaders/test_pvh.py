"""PVH: entry state and the start information."""

import pytest
from kernels import I386, Memory, elf, overlaps, pvh_note, request

from gasang import loaders
from gasang.firmware.memory_map import memory_map
from gasang.loaders import SegmentRegister
from gasang.units import MIB

ENTRY = 2 * MIB + 0x10


@pytest.fixture(params=[(64, 62), (32, I386)], ids=["64-bit", "32-bit"])
def kernel(request):
    bits, machine = request.param
    return elf([(2 * MIB, 0, b"x" * 32, 64)], entry=0, bits=bits, machine=machine, notes=pvh_note(ENTRY))


@pytest.fixture
def image(kernel, tmp_path):
    image = loaders.load(request(kernel, tmp_path, append="quiet", initrd=memoryview(b"ramdisk")))
    assert overlaps(image) == []
    return image


def test_it_is_entered_in_protected_mode_without_paging(image):
    assert image.registers["rip"] == ENTRY
    assert image.registers["cr0"] & 0x8000_0001 == 1
    assert image.registers["cs"] == SegmentRegister(0x10, 0, 0xFFFFFFFF, 0xC09B)
    assert image.registers["tr"].limit == 0x67
    assert (image.registers["rflags"], image.registers["cr4"], image.registers["efer"]) == (2, 0, 0)


def test_start_info_leads_to_everything(image):
    memory = Memory(image)
    fields = memory.unpack("<IIIIQQQQII", image.registers["rbx"])
    magic, version, _flags, modules, module_list, command_line, rsdp, memmap, entries, _ = fields
    assert (magic, version, modules, rsdp) == (0x336EC578, 1, 1, 0xE0000)
    assert memory.string(command_line) == b"quiet"
    start, size, _, _ = memory.unpack("<QQQQ", module_list)
    assert memory.read(start, size) == b"ramdisk"
    ranges = [memory.unpack("<QQII", memmap + 24 * index)[:3] for index in range(entries)]
    assert ranges == [(each.start, each.length, each.type) for each in memory_map(64 * MIB)]


def test_no_initrd_is_no_module(kernel, tmp_path):
    image = loaders.load(request(kernel, tmp_path))
    _, _, _, modules, module_list = Memory(image).unpack("<IIIIQ", image.registers["rbx"])
    assert (modules, module_list) == (0, 0)
