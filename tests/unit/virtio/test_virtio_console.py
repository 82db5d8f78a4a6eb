"""The console device by its queues, with a driver that may be hostile."""

import random
import struct
from contextlib import suppress

import pytest
from driver import WRITE, Memory, Ring

from gasang.virtio.console import ConsoleDevice, Event, Feature
from gasang.virtio.device import PolledDevice
from gasang.virtio.queue import QueueError

CONTROL_RX, CONTROL_TX = 2, 3
NAMES = ("first", "second")


class Guest:
    """A driver that says what a test has it say."""

    def __init__(self):
        memory = Memory(9 << 20)
        self.sent = []
        self.device = ConsoleDevice(NAMES, lambda port, data: self.sent.append((port, data)))
        self.rings = [Ring(memory, 0x10000 + 0x100000 * number) for number in range(self.device.queues)]
        self.device.negotiated(Feature.MULTIPORT)

    def poll(self):
        while self.device.poll([ring.queue for ring in self.rings]):
            pass

    def say(self, port, event, value):
        self.rings[CONTROL_TX].offer(8, 0, struct.pack("<IHH", port, event, value))
        self.poll()

    def heard(self):
        for _ in range(32):
            self.rings[CONTROL_RX].offer(128, WRITE)
        self.poll()
        return [(*struct.unpack_from("<IHH", each), each[8:]) for each in self.rings[CONTROL_RX].used()]


@pytest.fixture
def guest():
    guest = Guest()
    yield guest
    guest.device.close()


def test_it_is_polled_and_says_how_many_ports_it_has(guest):
    assert isinstance(guest.device, PolledDevice)
    assert guest.device.config() == struct.pack("<HHII", 0, 0, 3, 0)
    assert guest.device.queues == 8


def test_ports_come_when_the_driver_is_ready(guest):
    guest.say(0, Event.DEVICE_READY, 1)
    assert guest.heard() == [(port, Event.PORT_ADD, 1, b"") for port in range(3)]


def test_a_port_has_its_name_and_is_open(guest):
    guest.say(2, Event.PORT_READY, 1)
    assert guest.heard() == [(2, Event.PORT_NAME, 1, b"second"), (2, Event.PORT_OPEN, 1, b"")]


def test_the_first_port_is_a_console(guest):
    guest.say(0, Event.PORT_READY, 1)
    assert guest.heard() == [(0, Event.CONSOLE_PORT, 1, b""), (0, Event.PORT_OPEN, 1, b"")]


def test_bytes_go_both_ways(guest):
    guest.rings[5].offer(3, 0, b"out")
    guest.poll()
    assert guest.sent == [(1, b"out")]
    guest.say(1, Event.PORT_OPEN, 1)
    assert guest.device.offer(1, b"incoming") == 8
    for length in (3, 100):
        guest.rings[4].offer(length, WRITE)
    guest.poll()
    assert guest.rings[4].used() == [b"inc", b"oming"]


def test_a_closed_port_gets_nothing_until_it_is_opened(guest):
    guest.rings[4].offer(100, WRITE)
    guest.device.offer(1, b"early")
    guest.poll()
    assert guest.rings[4].used() == []
    guest.say(1, Event.PORT_OPEN, 1)
    assert guest.rings[4].used() == [b"early"]


def test_the_console_needs_not_be_opened(guest):
    guest.device.offer(0, b"typed")
    guest.rings[0].offer(100, WRITE)
    guest.poll()
    assert guest.rings[0].used() == [b"typed"]


def test_there_is_only_so_much_room(guest):
    assert guest.device.offer(1, bytes(100_000)) == 64 << 10
    assert guest.device.offer(1, b"x") == 0


def test_a_byte_can_be_written_without_queues(guest):
    guest.device.write_config(8, 4, ord("!"))
    assert guest.sent == [(0, b"!")]


def test_another_driver_begins_anew(guest):
    guest.say(1, Event.PORT_OPEN, 1)
    guest.device.negotiated(Feature.MULTIPORT)
    guest.device.offer(1, b"x")
    guest.rings[4].offer(100, WRITE)
    guest.poll()
    assert guest.rings[4].used() == []


def test_its_state_is_anothers(guest):
    guest.say(1, Event.PORT_OPEN, 1)
    guest.say(2, Event.PORT_READY, 1)
    guest.device.offer(1, b"waits")
    other = Guest()
    other.device.set_state(guest.device.state())
    assert other.device.state() == guest.device.state()
    assert other.heard() == [(2, Event.PORT_NAME, 1, b"second"), (2, Event.PORT_OPEN, 1, b"")]
    other.rings[4].offer(100, WRITE)
    other.poll()
    assert other.rings[4].used() == [b"waits"]
    with pytest.raises(ValueError, match="1 ports in the place of one with 3"):
        other.device.set_state({**guest.device.state(), "pending": [""]})
    other.device.close()


@pytest.mark.parametrize(
    ("ring", "length", "flags", "message"),
    [
        (CONTROL_TX, 7, 0, "a message to the console that is none"),
        (CONTROL_RX, 4, WRITE, "has no room in"),
        (0, 4, 0, "cannot be written"),
    ],
)
def test_a_broken_rule_is_told(guest, ring, length, flags, message):
    guest.say(0, Event.DEVICE_READY, 1)
    guest.device.offer(0, b"x")
    guest.rings[ring].offer(length, flags, b"")
    with pytest.raises(QueueError, match=message):
        guest.poll()


def test_a_driver_that_asks_and_does_not_listen_is_stopped(guest):
    for _ in range(256 // 3):
        guest.say(0, Event.DEVICE_READY, 1)
    with pytest.raises(QueueError, match="asks, and does not listen"):
        guest.say(0, Event.DEVICE_READY, 1)


def test_no_message_breaks_it(guest):
    random_bytes = random.Random(0)
    for _ in range(20_000):
        ring = random_bytes.choice([1, 3, 5, 7])
        guest.rings[ring].offer(random_bytes.randrange(1, 20), 0, random_bytes.randbytes(19))
        with suppress(QueueError):
            guest.poll()
        if len(guest.device.state()["messages"]) > 100:
            guest.device.negotiated(Feature.MULTIPORT)
    assert {port for port, _ in guest.sent} == {0, 1, 2}
