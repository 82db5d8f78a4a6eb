"""The entropy device, by its queue."""

from driver import NEXT, WRITE, Driver, Memory, set_up

from gasang.virtio.device import serve
from gasang.virtio.entropy import EntropyDevice
from gasang.virtio.queue import Queue


def made(source):
    memory = Memory(1 << 20)
    queue = Queue(memory)
    set_up(queue)
    queue.enable(event_index=False)
    driver = Driver(memory)
    device = EntropyDevice(source)
    return driver, lambda: serve(device, queue, 0, lambda _: None)


def test_buffers_are_filled():
    numbers = iter(range(256))
    driver, run = made(lambda count: bytes(next(numbers) for _ in range(count)))
    _, writable = driver.add([], [3, 5])
    run()
    assert [driver.read(place) for place in writable] == [b"\0\1\2", b"\3\4\5\6\7"]
    assert driver.used() == (1, [(0, 8)])


def test_a_request_without_room_is_done_at_once():
    driver, run = made(lambda count: b"\1" * count)
    driver.add([b"to be read"], [])
    run()
    assert driver.used() == (1, [(0, 0)])


def test_no_request_takes_more_than_64_kib():
    asked = []

    def source(count):
        asked.append(count)
        return bytes(count)

    driver, run = made(source)
    driver.describe(0, 0x10000, 1 << 15, NEXT | WRITE, 1)
    driver.describe(1, 0x20000, 1 << 16, NEXT | WRITE, 2)
    driver.describe(2, 0x40000, 100, WRITE)
    driver.offer(0)
    run()
    assert driver.used() == (1, [(0, 1 << 16)])
    assert sum(asked) == 1 << 16
