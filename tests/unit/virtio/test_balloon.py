"""The balloon, by its queues."""

import struct

import pytest
from driver import WRITE, Driver, Memory, set_up

from gasang.virtio.balloon import PAGE, Balloon
from gasang.virtio.device import serve
from gasang.virtio.queue import Queue, QueueError

INFLATE, DEFLATE, REPORT = range(3)


class Fixture:
    def __init__(self):
        self.memory = Memory(1 << 20)
        self.queue = Queue(self.memory)
        set_up(self.queue)
        self.queue.enable(event_index=False)
        self.driver = Driver(self.memory)
        self.discarded = []
        self.balloon = Balloon(self.discarded.extend)

    def serve(self, index):
        serve(self.balloon, self.queue, index, lambda _: None)


@pytest.fixture
def made():
    return Fixture()


def test_pages_in_the_balloon_are_given_back(made):
    made.driver.add([struct.pack("<4I", 5, 6, 9, 7)], [])
    made.serve(INFLATE)
    assert made.discarded == [(5 * PAGE, 2 * PAGE), (9 * PAGE, PAGE), (7 * PAGE, PAGE)]
    made.driver.add([struct.pack("<I", 5)], [])
    made.serve(DEFLATE)
    assert len(made.discarded) == 3, "a page that is taken out is used when it is used"
    assert made.driver.used()[0] == 2


def test_free_pages_are_given_back_as_far_as_they_are_whole(made):
    made.driver.describe(0, 0x10800, 3 * PAGE, WRITE)
    made.driver.offer(0)
    made.serve(REPORT)
    assert made.discarded == [(0x11000, 2 * PAGE)]


def test_half_a_number_breaks_the_device(made):
    made.driver.add([b"abc"], [])
    with pytest.raises(QueueError, match="a list of pages of 3 bytes"):
        made.serve(INFLATE)


def test_the_driver_is_asked_for_pages_and_says_how_many_it_gave(made):
    told = []
    made.balloon.connect(lambda: told.append(True))
    made.balloon.inflate_to(10 * PAGE + 5)
    assert told == [True]
    assert made.balloon.config() == struct.pack("<II", 10, 0)
    made.balloon.write_config(4, 4, 7)
    made.balloon.write_config(0, 4, 99)
    assert made.balloon.actual == 7 * PAGE
    assert made.balloon.config() == struct.pack("<II", 10, 7)
