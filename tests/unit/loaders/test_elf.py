"""ELF kernels: what is loaded where, and what is refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernels import AARCH64, I386, elf, pvh_note, vmlinux

from gasang.errors import KernelError
from gasang.firmware.memory_map import memory_map
from gasang.loaders.elf import parse
from gasang.loaders.placement import Placement
from gasang.units import MIB

TWO_SEGMENTS = [(2 * MIB, 0xC000_0000, b"text", 4), (3 * MIB, 0xC010_0000, b"data", 0x1000)]


@pytest.mark.parametrize(("bits", "machine"), [(64, 62), (32, I386)])
def test_segments_go_to_physical_addresses(bits, machine):
    kernel = parse(elf(TWO_SEGMENTS, entry=2 * MIB, bits=bits, machine=machine), "kernel k")
    segments = kernel.load(Placement(memory_map(64 * MIB)), "the kernel's")
    assert [(each.address, bytes(each.data)) for each in segments] == [(2 * MIB, b"text"), (3 * MIB, b"data")]
    assert kernel.is_64_bit == (bits == 64)


def test_memory_behind_the_file_part_is_claimed():
    kernel, placement = parse(elf(TWO_SEGMENTS, entry=0), "kernel k"), Placement(memory_map(64 * MIB))
    kernel.load(placement, "the kernel's")
    with pytest.raises(KernelError):
        placement.claim(3 * MIB + 0xFFF, 1, "the heap")


@pytest.mark.parametrize("entry", [0xC000_0002, 2 * MIB + 2])
def test_a_virtual_entry_point_becomes_a_physical_one(entry):
    assert parse(elf(TWO_SEGMENTS, entry=entry), "kernel k").physical_entry == 2 * MIB + 2


def test_the_pvh_note_is_found_among_others():
    assert parse(elf(TWO_SEGMENTS, entry=0, notes=pvh_note(0x1234)), "kernel k").pvh_entry == 0x1234
    assert parse(elf(TWO_SEGMENTS, entry=0), "kernel k").pvh_entry is None


def test_another_architecture_is_named():
    with pytest.raises(KernelError, match="kernel k is a kernel for AArch64: gasang runs x86-64 kernels"):
        parse(elf(TWO_SEGMENTS, entry=0, machine=AARCH64), "kernel k")


def test_an_elf_file_without_segments_is_no_kernel():
    with pytest.raises(KernelError, match="nothing to load"):
        parse(elf([], entry=0), "kernel k")


def test_a_segment_larger_than_its_memory_is_damage():
    with pytest.raises(KernelError, match="damaged: a segment is larger"):
        parse(elf([(2 * MIB, 0, b"text", 3)], entry=0), "kernel k")


@pytest.mark.parametrize("length", [5, 40, 64, 100, -1])
def test_a_truncated_file_is_an_error(length):
    with pytest.raises(KernelError, match=r"kernel k is (a )?truncated"):
        parse(vmlinux()[:length], "kernel k")


@given(st.data())
def test_damaged_headers_raise_nothing_but_kernel_error(data):
    content = bytearray(elf(TWO_SEGMENTS, entry=2 * MIB, notes=pvh_note(MIB)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(4, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(KernelError):
        kernel = parse(bytes(content), "kernel k")
        kernel.load(Placement(memory_map(64 * MIB)), "the kernel's")
