"""The block device, by its queue."""

import errno
import struct

import pytest
from driver import Driver, Memory, set_up

from gasang.virtio.block import BlockDevice, Feature, Request, Status
from gasang.virtio.device import serve
from gasang.virtio.queue import Queue, QueueError

SECTORS = 16


class Image:
    """A disk in memory."""

    def __init__(self, readonly=False):
        self.content = bytearray(bytes(range(256)) * 2 * SECTORS)
        self.readonly = readonly
        self.flushed = 0
        self.fails = False

    @property
    def size(self):
        return len(self.content)

    def read_into(self, offset, buffers):
        self._check()
        for buffer in buffers:
            buffer[:] = self.content[offset : offset + len(buffer)]
            offset += len(buffer)

    def write_from(self, offset, buffers):
        self._check()
        data = b"".join(buffers)
        self.content[offset : offset + len(data)] = data

    def write_zeroes(self, offset, length):
        self._check()
        self.content[offset : offset + length] = bytes(length)

    def flush(self):
        self._check()
        self.flushed += 1

    def close(self):
        pass

    def _check(self):
        if self.fails:
            raise OSError(errno.ENOSPC, "No space left on device")


class Disk:
    def __init__(self, **options):
        self.image = Image(**options)
        self.device = BlockDevice(self.image, "gasang-0")
        self.memory = Memory()
        self.queue = Queue(self.memory)
        set_up(self.queue)
        self.queue.enable(event_index=False)
        self.driver = Driver(self.memory)
        self.interrupts = []

    def request(self, kind, sector=0, data=(), room=()):
        """Do a request; its status, and what was written to its buffers."""
        head = struct.pack("<IIQ", kind, 0, sector)
        _, writable = self.driver.add([head, *data], [*room, 1])
        serve(self.device, self.queue, 0, self.interrupts.append)
        *buffers, status = [self.driver.read(place) for place in writable]
        return Status(status[0]), b"".join(buffers)


@pytest.fixture
def disk():
    return Disk()


def test_reads_come_from_the_image_into_any_buffers(disk):
    assert disk.request(Request.IN, 1, room=[256, 256]) == (Status.OK, bytes(disk.image.content[512:1024]))
    assert disk.driver.used() == (1, [(0, 513)])
    assert disk.interrupts == [0]


def test_writes_go_to_the_image(disk):
    assert disk.request(Request.OUT, 2, [b"a" * 500, b"b" * 12]) == (Status.OK, b"")
    assert disk.image.content[1024:1536] == b"a" * 500 + b"b" * 12
    assert disk.driver.used()[1] == [(0, 1)]


def test_a_header_may_be_torn_and_a_status_may_follow_the_data(disk):
    head = struct.pack("<IIQ", Request.OUT, 0, 3)
    disk.driver.add([head[:5], head[5:] + b"x" * 512], [1])
    serve(disk.device, disk.queue, 0, disk.interrupts.append)
    assert disk.image.content[1536:2048] == b"x" * 512
    _, writable = disk.driver.add([struct.pack("<IIQ", Request.IN, 0, 3)], [513])
    serve(disk.device, disk.queue, 0, disk.interrupts.append)
    assert disk.driver.read(writable[0]) == b"x" * 512 + b"\0"


def test_requests_beyond_the_end_or_of_half_sectors_are_errors(disk):
    before = bytes(disk.image.content)
    for sector, length in ((SECTORS, 512), (SECTORS - 1, 1024), (1 << 62, 512), (0, 100)):
        assert disk.request(Request.IN, sector, room=[length])[0] == Status.IO_ERROR
        assert disk.request(Request.OUT, sector, [bytes(length)])[0] == Status.IO_ERROR
        disk.driver.next_buffer = 0x4000
    assert disk.image.content == before


def test_flush_flushes_the_image(disk):
    assert disk.request(Request.FLUSH)[0] == Status.OK
    assert disk.image.flushed == 1


def test_the_serial_names_the_disk(disk):
    assert disk.request(Request.GET_ID, room=[20]) == (Status.OK, b"gasang-0".ljust(20, b"\0"))
    assert disk.request(Request.GET_ID, room=[19])[0] == Status.IO_ERROR


def test_ranges_are_discarded_and_zeroed(disk):
    ranges = struct.pack("<QIIQII", 0, 1, 1, 4, 2, 0)
    assert disk.request(Request.WRITE_ZEROES, data=[ranges])[0] == Status.OK
    assert disk.image.content[:512] == bytes(512)
    assert disk.image.content[512:2048] != bytes(1536)
    assert disk.image.content[2048:3072] == bytes(1024)
    assert disk.request(Request.DISCARD, data=[struct.pack("<QII", 1, 1, 0)])[0] == Status.OK
    assert disk.image.content[512:1024] == bytes(512)


def test_ranges_that_cannot_be_are_errors(disk):
    before = bytes(disk.image.content)
    for ranges, status in (
        (b"", Status.IO_ERROR),
        (b"short", Status.IO_ERROR),
        (struct.pack("<QII", SECTORS, 1, 0), Status.IO_ERROR),
        (struct.pack("<QII", 0, 1 << 31, 0), Status.IO_ERROR),
        (struct.pack("<QII", 0, 1, 2), Status.UNSUPPORTED),
        (struct.pack("<QII", 0, 1, 0) * 17, Status.UNSUPPORTED),
    ):
        assert disk.request(Request.DISCARD, data=[ranges] if ranges else [])[0] == status
    assert disk.image.content == before


def test_unknown_requests_are_unsupported(disk):
    assert disk.request(99)[0] == Status.UNSUPPORTED


def test_what_the_host_cannot_do_is_an_error_of_the_disk_and_told_once(disk, caplog):
    disk.image.fails = True
    for _ in range(2):
        assert disk.request(Request.OUT, 0, [bytes(512)])[0] == Status.IO_ERROR
    assert [record.getMessage() for record in caplog.records] == [
        "disk gasang-0: No space left on device; the guest sees an I/O error"
    ]


def test_a_disk_to_be_read_is_not_written():
    disk = Disk(readonly=True)
    assert disk.device.features & Feature.READ_ONLY
    assert not disk.device.features & (Feature.DISCARD | Feature.WRITE_ZEROES | Feature.FLUSH)
    before = bytes(disk.image.content)
    assert disk.request(Request.OUT, 0, [bytes(512)])[0] == Status.IO_ERROR
    assert disk.request(Request.DISCARD, data=[struct.pack("<QII", 0, 1, 0)])[0] == Status.IO_ERROR
    assert disk.image.content == before


def test_requests_without_header_or_status_break_the_device(disk):
    disk.driver.add([struct.pack("<IIQ", Request.IN, 0, 0)], [])
    with pytest.raises(QueueError, match="without room for its status"):
        serve(disk.device, disk.queue, 0, disk.interrupts.append)
    disk.driver.add([b"half"], [1])
    with pytest.raises(QueueError, match="half a header"):
        serve(disk.device, disk.queue, 0, disk.interrupts.append)


def test_the_configuration_tells_size_and_limits(disk):
    config = disk.device.config()
    assert len(config) == 60
    assert struct.unpack_from("<Q", config) == (SECTORS,)
    assert struct.unpack_from("<I", config, 20) == (512,)
