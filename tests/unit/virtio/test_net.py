"""The network device, by its queues, with a cable that a test holds the other end of."""

import random
import struct
from collections import deque
from contextlib import suppress

import pytest
from driver import WRITE, Memory, Ring

from gasang.virtio.device import PolledDevice
from gasang.virtio.net import MTU, Feature, NetDevice
from gasang.virtio.queue import QueueError

RX, TX, CONTROL = range(3)
MAC = bytes([2, 0, 0, 0, 0, 1])
HEADER = 12


class FakeCable:
    """Keeps what the guest sends, and gives what a test has put in."""

    checks = False
    descriptor = -1

    def __init__(self):
        self.taken, self.owed, self.room, self.closed, self.loaded = [], deque(), True, False, None
        self.mac = None

    def take(self, frame):
        self.taken.append(frame)
        return self.room

    def exchange(self):
        return self.room

    def give(self):
        return self.owed.popleft() if self.owed else None

    def set_mac(self, mac):
        self.mac = mac

    def state(self):
        return {"connections": []}

    def set_state(self, state):
        self.loaded = state

    def close(self):
        self.closed = True


class Guest:
    """A driver that says what a test has it say."""

    def __init__(self, features=Feature.GUEST_CSUM | Feature.MRG_RXBUF, cable=None):
        memory = Memory(4 << 20)
        self.rings = [Ring(memory, 0x10000 + 0x100000 * number) for number in range(3)]
        self.cable = cable or FakeCable()
        self.device = NetDevice(self.cable, MAC)
        self.device.negotiated(features)

    def poll(self):
        while self.device.poll([ring.queue for ring in self.rings]):
            pass

    def send(self, frame):
        self.rings[TX].offer(HEADER + len(frame), 0, bytes(HEADER) + frame)

    def room(self, *lengths):
        for length in lengths:
            self.rings[RX].offer(length, WRITE)


def test_it_is_polled_and_says_what_it_is():
    device = NetDevice(FakeCable(), MAC)
    assert isinstance(device, PolledDevice)
    assert device.config() == MAC + struct.pack("<HHH", 1, 1, MTU)
    assert device.features & Feature.CSUM
    cable = FakeCable()
    cable.checks = True
    assert not NetDevice(cable, MAC).features & Feature.CSUM


def test_frames_go_to_the_cable():
    guest = Guest()
    guest.send(b"one")
    guest.send(b"another")
    guest.poll()
    assert guest.cable.taken == [b"one", b"another"]
    assert guest.rings[TX].used() == [b"", b""]


def test_frames_wait_for_a_cable_that_is_full():
    guest = Guest()
    guest.cable.room = False
    for frame in (b"a", b"b"):
        guest.send(frame)
    guest.poll()
    assert guest.cable.taken == [b"a"]
    guest.cable.room = True
    guest.poll()
    assert guest.cable.taken == [b"a", b"b"]


def test_a_frame_is_given_in_as_many_buffers_as_it_takes():
    guest = Guest()
    frame = bytes(range(250)) * 20
    guest.cable.owed.append(frame)
    guest.room(4096)
    guest.poll()
    assert guest.rings[RX].used() == [], "it waits until there are enough"
    guest.room(4096, 4096)
    guest.poll()
    first, second = guest.rings[RX].used()
    assert first[:HEADER] == struct.pack("<BBHHHHH", 2, 0, 0, 0, 0, 0, 2)
    assert first[HEADER:] + second == frame


def test_buffers_that_are_added_while_it_looks_are_not_overlooked():
    guest = Guest()
    guest.cable.owed.append(bytes(5000))
    guest.room(4096)
    queue = guest.rings[RX].queue
    pop, late = queue.pop, [4096]

    def pop_and_add():
        found = pop()
        if found is None and late:
            guest.room(late.pop())
        return found

    queue.pop = pop_and_add
    guest.poll()
    assert len(guest.rings[RX].used()) == 2


def test_a_driver_that_cannot_join_buffers_loses_what_is_too_long():
    guest = Guest(Feature(0))
    guest.cable.owed += [b"x" * 2000, b"fits"]
    guest.room(1526, 1526)
    guest.poll()
    lost, whole = guest.rings[RX].used()
    assert (lost, whole) == (b"", struct.pack("<BBHHHHH", 0, 0, 0, 0, 0, 0, 1) + b"fits")


@pytest.mark.parametrize(
    ("command", "answer", "address"),
    [
        (b"\1\1" + bytes.fromhex("020000000009"), b"\0", "020000000009"),
        (b"\1\1" + bytes(5), b"\1", MAC.hex()),
        (b"\0\0\1", b"\1", MAC.hex()),
        (b"", b"\1", MAC.hex()),
    ],
)
def test_the_driver_sets_its_address(command, answer, address):
    guest = Guest()
    ring = guest.rings[CONTROL]
    table = guest.rings[CONTROL].base
    memory = ring.memory.bytes
    place = ring.place(0)
    memory[place : place + len(command)] = command
    start = 0 if command else 1
    struct.pack_into("<QIHH", memory, table, place, len(command), 1, 1)
    struct.pack_into("<QIHH", memory, table + 16, place + 64, 1, WRITE, 0)
    struct.pack_into("<H", memory, ring.base + 0x1004, start)
    struct.pack_into("<H", memory, ring.base + 0x1002, 1)
    guest.poll()
    assert memory[place + 64 : place + 65] == answer
    assert guest.device.config()[:6].hex() == address
    assert guest.cable.mac in (None, bytes.fromhex(address))


def test_a_frame_longer_than_any_is_an_error():
    guest = Guest()
    for _ in range(2):
        guest.rings[TX].offer(1 << 17, 0)
    with pytest.raises(QueueError, match="longer"):
        guest.poll()


def test_a_command_without_room_for_its_answer_is_an_error():
    guest = Guest()
    guest.rings[CONTROL].offer(8, 0)
    with pytest.raises(QueueError, match="answer"):
        guest.poll()


def test_a_queue_of_nothing_that_is_full_is_an_error():
    guest = Guest()
    guest.cable.owed.append(bytes(60000))
    guest.room(*[16] * 64)
    with pytest.raises(QueueError, match="without room"):
        guest.poll()


def test_its_state_goes_on_in_another():
    guest, other = Guest(), Guest(Feature(0))
    state = guest.device.state()
    other.device.set_state({**state, "mac": "020000000007"})
    assert other.device.config()[:6].hex() == "020000000007"
    assert other.cable.loaded == {"connections": []}
    other.cable.owed.append(bytes(5000))
    other.room(4096, 4096)
    other.poll()
    assert len(other.rings[RX].used()) == 2, "it knows what the driver chose"
    with pytest.raises(ValueError, match="5 bytes"):
        other.device.set_state({**state, "mac": "0200000000"})


def test_a_hostile_driver_breaks_nothing_but_its_device():
    chance = random.Random(7)
    for _ in range(300):
        guest = Guest()
        guest.cable.owed += [bytes(chance.randrange(3000)) for _ in range(4)]
        for ring in guest.rings:
            memory = ring.memory.bytes
            memory[ring.base : ring.base + 1024] = chance.randbytes(1024)
            memory[ring.base + 0x1000 : ring.base + 0x1000 + 160] = chance.randbytes(160)
            struct.pack_into("<H", memory, ring.base + 0x1002, chance.randrange(80))
            for number in range(64):
                struct.pack_into("<Q", memory, ring.base + 16 * number, chance.randrange(4 << 20))
        with suppress(QueueError):
            guest.poll()


def test_the_cable_is_closed_with_it():
    guest = Guest()
    guest.device.close()
    assert guest.cable.closed
