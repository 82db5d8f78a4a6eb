"""The split virtqueue: what drivers do, and what they may not."""

import struct

import pytest
from driver import AVAILABLE, BUFFERS, INDIRECT, NEXT, SIZE, TABLE, USED, WRITE, Driver, Memory, set_up
from hypothesis import given, settings
from hypothesis import strategies as st

from gasang.virtio.queue import Queue, QueueError


def made(event_index=False):
    memory = Memory()
    queue = Queue(memory)
    set_up(queue)
    queue.enable(event_index=event_index)
    return memory, queue, Driver(memory)


def test_a_request_is_its_buffers_in_order():
    memory, queue, driver = made()
    head, writable = driver.add([b"one", b"three"], [4, 2])
    chain = queue.pop()
    assert (chain.head, b"".join(chain.readable)) == (head, b"onethree")
    assert sum(map(len, chain.writable)) == 6
    chain.writable[0][:4] = b"abcd"
    queue.push(chain, 5)
    assert driver.used() == (0, [])
    assert queue.publish()
    assert driver.used() == (1, [(head, 5)])
    assert driver.read(writable[0]) == b"abcd"
    assert memory.told[0] == (writable[0][0], 5), "two buffers that follow each other are one"
    assert queue.pop() is None


def test_buffers_that_are_apart_stay_apart():
    memory, queue, driver = made()
    driver.describe(0, BUFFERS, 4, NEXT, 1)
    driver.describe(1, BUFFERS + 8, 4, NEXT, 2)
    driver.describe(2, BUFFERS + 12, 4, NEXT | WRITE, 3)
    driver.describe(3, BUFFERS + 20, 4, WRITE)
    driver.offer(0)
    chain = queue.pop()
    assert [len(each) for each in chain.readable] == [4, 4]
    assert chain.writable_ranges == [(BUFFERS + 12, 4), (BUFFERS + 20, 4)]
    queue.push(chain, 6)
    assert memory.told == [(BUFFERS + 12, 4), (BUFFERS + 20, 2)]


def test_rings_wrap_around():
    _, queue, driver = made()
    for number in range(5 * SIZE):
        head, _ = driver.add([b"x"], [])
        chain = queue.pop()
        assert chain.head == head
        queue.push(chain, 0)
        queue.publish()
        assert driver.used()[0] == number + 1
        driver.next_buffer = BUFFERS


def test_indexes_wrap_at_16_bits():
    memory, queue, driver = made()
    driver.index = 0xFFFE
    queue._next = queue._used = queue._told = 0xFFFE
    struct.pack_into("<H", memory.bytes, AVAILABLE + 2, 0xFFFE)
    for _ in range(4):
        driver.add([b"x"], [])
        queue.push(queue.pop(), 0)
        assert queue.publish()
    assert struct.unpack_from("<H", memory.bytes, USED + 2) == (2,)


def test_an_indirect_table_is_a_chain():
    _, queue, driver = made()
    content, length = driver.place(b"header")
    status, _ = driver.place(b"", 1)
    table, _ = driver.place(struct.pack("<QIHHQIHH", content, length, NEXT, 1, status, 1, WRITE, 0))
    driver.describe(3, table, 32, INDIRECT)
    driver.offer(3)
    chain = queue.pop()
    assert (bytes(chain.readable[0]), chain.writable_ranges) == (b"header", [(status, 1)])


def long_chain(change=lambda entries: None):
    """A request of a hundred buffers in an indirect table: two to read, the others to write, a page apart."""
    memory = Memory(1 << 20)
    queue = Queue(memory)
    set_up(queue)
    queue.enable(event_index=False)
    entries = [[0x10000 + 0x1000 * n, 8, (WRITE if n > 1 else 0) | NEXT, n + 1] for n in range(100)]
    entries[-1][2] = WRITE
    change(entries)
    driver = Driver(memory)
    table, _ = driver.place(b"".join(struct.pack("<QIHH", *entry) for entry in entries))
    driver.describe(3, table, 16 * len(entries), INDIRECT)
    driver.offer(3)
    return memory, queue


def test_a_long_chain_has_all_its_buffers():
    memory, queue = long_chain()
    chain = queue.pop()
    assert [len(view) for view in chain.readable] == [8, 8]
    assert chain.writable_ranges == [(0x10000 + 0x1000 * n, 8) for n in range(2, 100)]
    assert chain.room == 98 * 8
    queue.push(chain, 12)
    queue.push(chain, chain.room)
    assert memory.told == [(0x12000, 8), (0x13000, 4), *chain.writable_ranges]


def test_a_long_chain_may_be_written_in_any_order():
    def swap(entries):
        entries[5][3], entries[6][3], entries[7][3] = 7, 8, 6

    _, queue = long_chain(swap)
    ranges = queue.pop().writable_ranges
    assert [address >> 12 & 0xFF for address, _ in ranges[:8]] == [
        0x12,
        0x13,
        0x14,
        0x15,
        0x17,
        0x16,
        0x18,
        0x19,
    ]


def test_a_long_chain_may_end_before_its_table():
    def end(entries):
        entries[50][2] = WRITE

    _, queue = long_chain(end)
    assert len(queue.pop().writable_ranges) == 49


@pytest.mark.parametrize(
    ("number", "field", "value", "said"),
    [
        (50, 1, 0, "no bytes"),
        (50, 2, NEXT, "behind one to write"),
        (50, 3, 200, "descriptor 200 of 100"),
        (50, 3, 49, "without an end"),
        (99, 2, WRITE | NEXT, "without an end"),
        (99, 2, INDIRECT, "an indirect table in another"),
        (50, 0, 1 << 40, "no RAM"),
    ],
)
def test_what_breaks_a_rule_in_a_long_chain_is_named(number, field, value, said):
    def change(entries):
        entries[number][field] = value

    _, queue = long_chain(change)
    with pytest.raises(QueueError, match=said):
        queue.pop()


def test_interrupts_are_suppressed_by_the_flag():
    memory, queue, driver = made()
    struct.pack_into("<H", memory.bytes, AVAILABLE, 1)
    driver.add([b"x"], [])
    queue.push(queue.pop(), 0)
    assert not queue.publish()
    assert not queue.publish(), "nothing new"


def test_the_driver_says_after_which_request_it_wants_an_interrupt():
    _, queue, driver = made(event_index=True)
    driver.set_used_event(1)
    wanted = []
    for _ in range(4):
        driver.add([b"x"], [])
        queue.push(queue.pop(), 0)
        wanted.append(queue.publish())
    assert wanted == [False, True, False, False]


def test_the_device_says_after_which_request_it_wants_to_be_told():
    _, queue, driver = made(event_index=True)
    queue.want_notifications(True)
    assert driver.available_event() == 0
    driver.add([b"x"], [])
    assert queue.waits
    queue.pop()
    assert not queue.waits
    queue.want_notifications(True)
    assert driver.available_event() == 1


def test_without_event_indexes_a_flag_says_it():
    memory, queue, _ = made()
    queue.want_notifications(False)
    assert struct.unpack_from("<H", memory.bytes, USED) == (1,)
    queue.want_notifications(True)
    assert struct.unpack_from("<H", memory.bytes, USED) == (0,)


def broken(prepare):
    memory, queue, driver = made()
    prepare(memory, driver)
    with pytest.raises(QueueError) as caught:
        queue.pop()
    return str(caught.value)


def test_what_breaks_a_rule_is_named():
    def loop(_, driver):
        driver.describe(0, BUFFERS, 1, NEXT, 1)
        driver.describe(1, BUFFERS, 1, NEXT, 0)
        driver.offer(0)

    def outside(_, driver):
        driver.describe(0, 1 << 40, 1)
        driver.offer(0)

    def too_far(_, driver):
        driver.describe(0, BUFFERS, 1, NEXT, SIZE)
        driver.offer(0)

    def empty(_, driver):
        driver.describe(0, BUFFERS, 0)
        driver.offer(0)

    def run_away(memory, _):
        struct.pack_into("<H", memory.bytes, AVAILABLE + 2, SIZE + 1)

    def read_after_write(_, driver):
        driver.describe(0, BUFFERS, 1, WRITE | NEXT, 1)
        driver.describe(1, BUFFERS, 1)
        driver.offer(0)

    def table_in_table(memory, driver):
        struct.pack_into("<QIHH", memory.bytes, BUFFERS, BUFFERS, 16, INDIRECT, 0)
        driver.describe(0, BUFFERS, 16, INDIRECT)
        driver.offer(0)

    def torn_table(_, driver):
        driver.describe(0, BUFFERS, 17, INDIRECT)
        driver.offer(0)

    assert broken(loop) == "a chain without an end"
    assert broken(outside).startswith("a buffer is no RAM")
    assert broken(too_far) == f"descriptor {SIZE} of {SIZE}"
    assert broken(empty) == "a buffer of no bytes"
    assert broken(run_away) == f"{SIZE + 1} requests in a queue of {SIZE}"
    assert broken(read_after_write) == "a buffer to read behind one to write"
    assert broken(table_in_table) == "an indirect table in another"
    assert "an indirect table of 17 bytes" in broken(torn_table)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", 0),
        ("size", 3),
        ("size", 2048),
        ("descriptors", 8),
        ("driver_area", 1),
        ("device_area", 2),
        ("descriptors", 1 << 60),
        ("device_area", 0xFFFC),
    ],
)
def test_areas_that_cannot_be_a_queues_are_refused(name, value):
    queue = Queue(Memory())
    set_up(queue)
    setattr(queue, name, value)
    with pytest.raises(QueueError):
        queue.enable(event_index=False)
    assert not queue.enabled


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=16 * SIZE, max_size=16 * SIZE), st.binary(min_size=24, max_size=24), st.booleans())
def test_whatever_a_driver_writes_nothing_but_queue_errors_come(table, available, event_index):
    memory, queue, _ = made(event_index)
    memory.bytes[TABLE : TABLE + len(table)] = table
    memory.bytes[AVAILABLE : AVAILABLE + len(available)] = available
    try:
        for _ in range(2 * SIZE):
            chain = queue.pop()
            if chain is None:
                break
            queue.push(chain, 1)
        queue.publish()
    except QueueError:
        pass
