"""The e820 map of machines of all sizes."""

from itertools import pairwise

import pytest

from gasang.firmware.memory_map import MemoryType, memory_map
from gasang.units import GIB, MIB


def _ram(memory):
    return [(each.start, each.end) for each in memory_map(memory) if each.type is MemoryType.RAM]


def test_a_small_machine_has_low_and_extended_memory():
    assert _ram(512 * MIB) == [(0, 0x9FC00), (MIB, 512 * MIB)]


def test_memory_beyond_three_gib_continues_at_four():
    assert _ram(5 * GIB) == [(0, 0x9FC00), (MIB, 3 * GIB), (4 * GIB, 6 * GIB)]


@pytest.mark.parametrize("memory", [32 * MIB, 3 * GIB, 3 * GIB + 4096, 64 * GIB])
def test_ranges_ascend_without_overlap(memory):
    ranges = memory_map(memory)
    assert all(each.length > 0 for each in ranges)
    assert all(one.end <= other.start for one, other in pairwise(ranges))


def test_firmware_tables_are_not_ram():
    assert not any(start <= 0xE0000 < end for start, end in _ram(GIB))
