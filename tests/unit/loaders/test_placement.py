"""Claims on guest memory."""

import pytest

from gasang.errors import KernelError
from gasang.firmware.memory_map import memory_map
from gasang.loaders.placement import Placement
from gasang.units import GIB, MIB


@pytest.fixture
def placement():
    return Placement(memory_map(64 * MIB))


def test_the_first_page_is_never_handed_out(placement):
    assert placement.lowest(1, "something") == 0x1000


def test_lowest_skips_what_is_taken_and_aligns(placement):
    placement.claim(0x1000, 100, "a")
    assert placement.lowest(10, "b", align=16) == 0x1070
    assert placement.lowest(10, "c") == 0x2000


def test_highest_ends_at_or_below_the_first_end_with_room(placement):
    assert placement.highest(MIB, "a", ends=[32 * MIB]) == 31 * MIB
    assert placement.highest(MIB, "b", ends=[32 * MIB]) == 30 * MIB


def test_highest_tries_the_next_end(placement):
    assert placement.highest(33 * MIB, "a", ends=[32 * MIB, GIB]) == 31 * MIB


def test_highest_reaches_above_four_gib():
    placement = Placement(memory_map(6 * GIB))
    assert placement.highest(GIB, "a", ends=[2 * GIB]) == GIB
    assert placement.highest(2 * GIB + MIB, "b", ends=[2 * GIB, 1 << 52]) == 5 * GIB - MIB


@pytest.mark.parametrize(
    ("address", "size"),
    [(0, 1), (0x9FC00, 1), (0x9F000, 0x1000), (MIB - 1, 2), (64 * MIB - 1, 2), (1 << 40, 1)],
)
def test_a_claim_on_what_is_not_ram_is_an_error(placement, address, size):
    with pytest.raises(KernelError, match=r"the kernel goes to .* not free RAM"):
        placement.claim(address, size, "the kernel")


def test_two_claims_do_not_overlap(placement):
    placement.claim(MIB, 4096, "one")
    with pytest.raises(KernelError, match="two goes to"):
        placement.claim(MIB + 4095, 1, "two")
    placement.claim(MIB + 4096, 1, "three")


def test_what_does_not_fit_is_told_with_sizes(placement):
    with pytest.raises(KernelError, match=r"the initrd of 65M does not fit .*\(about 63M free\).*-m"):
        placement.highest(65 * MIB, "the initrd", ends=[GIB])
