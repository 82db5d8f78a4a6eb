"""Routing, and how partial and wide accesses become what devices take."""

import pytest

from gasang.bus import AddressSpace


class Recorder:
    """A device that keeps what is done to it, and reads as its offsets."""

    def __init__(self):
        self.calls = []

    def read(self, offset, size):
        self.calls.append(("read", offset, size))
        return int.from_bytes(bytes(range(offset, offset + size)), "little")

    def write(self, offset, size, value):
        self.calls.append(("write", offset, size, value))


@pytest.fixture
def space():
    return AddressSpace("I/O port")


@pytest.fixture
def device():
    return Recorder()


def test_devices_see_offsets(space, device):
    space.attach(device, 0x70, 2)
    assert space.read(0x71, 1) == 1
    space.write(0x70, 1, 0xAB)
    assert device.calls == [("read", 1, 1), ("write", 0, 1, 0xAB)]


def test_a_part_of_a_device_may_be_attached(space, device):
    space.attach(device, 0x64, 1, offset=4)
    space.read(0x64, 1)
    assert device.calls == [("read", 4, 1)]


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_unclaimed_reads_float_to_all_ones(space, size):
    assert space.read(0x1234, size) == (1 << (8 * size)) - 1


def test_unclaimed_writes_go_nowhere(space, device):
    space.attach(device, 0x70, 2)
    space.write(0x72, 4, 0)
    assert device.calls == []


def test_wide_accesses_become_narrow_ones_lowest_first(space, device):
    space.attach(device, 0x10, 8, width=2)
    space.write(0x10, 8, 0x4444_3333_2222_1111)
    assert device.calls == [
        ("write", 0, 2, 0x1111),
        ("write", 2, 2, 0x2222),
        ("write", 4, 2, 0x3333),
        ("write", 6, 2, 0x4444),
    ]
    assert space.read(0x10, 4) == 0x03020100


def test_an_access_within_the_width_stays_whole(space, device):
    space.attach(device, 0x10, 8, width=4)
    assert space.read(0x14, 4) == 0x07060504
    assert device.calls == [("read", 4, 4)]


def test_an_access_across_the_end_of_a_device_floats_beyond(space, device):
    space.attach(device, 0x10, 2, width=4)
    assert space.read(0x10, 4) == 0xFFFF_0100
    assert space.read(0x0E, 4) == 0x0100_FFFF


def test_an_access_reaches_two_neighbours(space):
    first, second = Recorder(), Recorder()
    space.attach(first, 0x10, 1)
    space.attach(second, 0x11, 1)
    space.write(0x10, 2, 0xBBAA)
    assert (first.calls, second.calls) == ([("write", 0, 1, 0xAA)], [("write", 0, 1, 0xBB)])


@pytest.mark.parametrize(("start", "length"), [(0x70, 2), (0x6F, 2), (0x71, 1), (0x60, 0x20)])
def test_devices_cannot_overlap(space, device, start, length):
    space.attach(device, 0x70, 2)
    with pytest.raises(ValueError, match="belongs to"):
        space.attach(Recorder(), start, length)


def test_neighbours_do_not_overlap(space, device):
    space.attach(device, 0x70, 2)
    space.attach(Recorder(), 0x72, 1)
    space.attach(Recorder(), 0x6F, 1)
    assert space.read(0x6F, 1) == 0
