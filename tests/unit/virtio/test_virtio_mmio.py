"""The MMIO transport, register by register."""

import random
import struct

import pytest
from driver import AVAILABLE, SIZE, TABLE, USED, Driver, Memory

from gasang.virtio.entropy import EntropyDevice
from gasang.virtio.mmio import Interrupt, Register, VirtioMmio
from gasang.virtio.queue import MOST_DESCRIPTORS

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET = 1, 2, 4, 8, 64
VERSION_1 = 1 << 0  # of the upper half


class Slot:
    """A line that a test looks at."""

    def __init__(self):
        self.level, self.errors, self.interrupt = False, [], self

    def set_level(self, high):
        self.level = high

    def fail(self, error):
        self.errors.append(error)


class Guest:
    """A driver of an entropy device."""

    def __init__(self):
        self.memory, self.slot = Memory(), Slot()
        self.device = VirtioMmio(
            EntropyDevice(lambda length: b"r" * length), self.memory, self.slot, synchronous=True
        )

    def read(self, offset):
        return self.device.read(offset, 4)

    def write(self, offset, value):
        self.device.write(offset, 4, value)

    def begin(self):
        self.write(Register.STATUS, ACKNOWLEDGE | DRIVER)
        self.write(Register.DRIVER_FEATURES_SELECT, 1)
        self.write(Register.DRIVER_FEATURES, VERSION_1)
        self.write(Register.STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK)
        assert self.read(Register.STATUS) & FEATURES_OK
        self.write(Register.QUEUE_SELECT, 0)
        self.write(Register.QUEUE_SIZE, SIZE)
        for offset, address in ((0x80, TABLE), (0x90, AVAILABLE), (0xA0, USED)):
            self.write(offset, address)
            self.write(offset + 4, 0)
        self.write(Register.QUEUE_READY, 1)
        assert self.read(Register.QUEUE_READY) == 1
        self.write(Register.STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)
        return Driver(self.memory)


@pytest.fixture
def guest():
    guest = Guest()
    yield guest
    guest.device.close()


def test_it_says_what_it_is(guest):
    assert struct.pack("<I", guest.read(Register.MAGIC)) == b"virt"
    assert guest.read(Register.VERSION) == 2
    assert guest.read(Register.DEVICE_ID) == 4
    assert guest.read(Register.QUEUE_SIZE_MOST) == MOST_DESCRIPTORS
    guest.write(Register.QUEUE_SELECT, 1)
    assert guest.read(Register.QUEUE_SIZE_MOST) == 0


def test_there_is_no_shared_memory(guest):
    assert [guest.read(offset) for offset in (0xB0, 0xB4, 0xB8, 0xBC)] == [0xFFFFFFFF] * 4


def test_features_are_offered_in_halves(guest):
    guest.write(Register.DEVICE_FEATURES_SELECT, 1)
    assert guest.read(Register.DEVICE_FEATURES) & VERSION_1


def test_a_request_is_served_and_the_line_is_high_until_acknowledged(guest):
    driver = guest.begin()
    _, (place,) = driver.add([], [8])
    assert not guest.slot.level
    guest.write(Register.QUEUE_NOTIFY, 0)
    assert driver.read(place) == b"r" * 8
    assert (guest.slot.level, guest.read(Register.INTERRUPT_STATUS)) == (True, Interrupt.QUEUE)
    guest.write(Register.INTERRUPT_ACKNOWLEDGE, Interrupt.QUEUE)
    assert (guest.slot.level, guest.read(Register.INTERRUPT_STATUS)) == (False, 0)


def test_a_driver_that_breaks_a_rule_is_told_by_a_configuration_interrupt(guest):
    driver = guest.begin()
    driver.offer(SIZE + 1)
    guest.write(Register.QUEUE_NOTIFY, 0)
    assert guest.read(Register.STATUS) & NEEDS_RESET
    assert guest.read(Register.INTERRUPT_STATUS) & Interrupt.CONFIGURATION
    guest.write(Register.STATUS, 0)
    assert (guest.read(Register.STATUS), guest.slot.level) == (0, False)


def test_its_state_is_anothers(guest):
    driver = guest.begin()
    driver.add([], [8])
    guest.write(Register.QUEUE_NOTIFY, 0)
    other = Guest()
    other.memory.bytes[:] = guest.memory.bytes
    other.device.pause()
    other.device.set_state(guest.device.state())
    assert other.device.state() == guest.device.state()
    other.device.resume()
    driver.memory = other.memory
    _, (place,) = driver.add([], [4])
    other.write(Register.QUEUE_NOTIFY, 0)
    assert driver.read(place) == b"rrrr"
    with pytest.raises(ValueError, match="a device 2 in the place of a 4"):
        other.device.set_state({**guest.device.state(), "device_id": 2})
    other.device.close()


def test_no_access_breaks_it(guest):
    dice = random.Random(0)
    offsets = [*map(int, Register), *range(0x80, 0xA8, 4)]
    for _ in range(50_000):
        offset = dice.choice(offsets) if dice.random() < 0.9 else dice.randrange(0x1000)
        size = 4 if dice.random() < 0.9 else dice.choice((1, 2))
        if dice.random() < 0.7:
            value = dice.choice((0, 1, 2, 15, 0x1000, 0x2000, 0x3000, 0xFFFFFFFF, dice.getrandbits(32)))
            guest.device.write(offset, size, value & (1 << 8 * size) - 1)
        else:
            assert 0 <= guest.device.read(offset, size) < 1 << 8 * size
    assert guest.slot.errors == []
