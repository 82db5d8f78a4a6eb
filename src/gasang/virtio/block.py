"""The block device (Virtio 1.2, 5.2)."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Sequence
from enum import IntEnum

from gasang import log
from gasang.device import Saved
from gasang.storage import Image
from gasang.storage.image import SECTOR
from gasang.virtio.queue import MOST_DESCRIPTORS, Chain, Queue, QueueError

_HEADER = struct.Struct("<IIQ")
_RANGE = struct.Struct("<QII")
_SERIAL_BYTES = 20
_UNMAP = 1
_MOST_RANGES = 16
_MOST_SECTORS = 1 << 22
"""Of one range to discard or to zero: 2 GiB."""


class Feature:
    """Bits of its features (5.2.3)."""

    SEG_MAX = 1 << 2
    READ_ONLY = 1 << 5
    BLOCK_SIZE = 1 << 6
    FLUSH = 1 << 9
    DISCARD = 1 << 13
    WRITE_ZEROES = 1 << 14


class Request(IntEnum):
    """Types of requests (5.2.6)."""

    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8
    DISCARD = 11
    WRITE_ZEROES = 13


class Status(IntEnum):
    """What becomes of one."""

    OK = 0
    IO_ERROR = 1
    UNSUPPORTED = 2


class BlockDevice:
    """A disk with the content of `image`, which is its own from now on; `serial` names it to the guest."""

    device_id = 2
    pci_class = 0x010000
    queues = 1

    def __init__(self, image: Image, serial: str) -> None:
        # static configuration
        self._image = image
        self._serial = serial.encode()[:_SERIAL_BYTES]
        writable = Feature.FLUSH | Feature.DISCARD | Feature.WRITE_ZEROES
        self.features = (
            Feature.SEG_MAX | Feature.BLOCK_SIZE | (Feature.READ_ONLY if image.readonly else writable)
        )
        # volatile state
        self._failures: set[int] = set()

    def config(self) -> bytes:
        """struct virtio_blk_config (5.2.4)."""
        capacity, most_segments = self._image.size // SECTOR, MOST_DESCRIPTORS - 2
        head = struct.pack("<QIIHBBI", capacity, 0, most_segments, 0, 0, 0, SECTOR)
        topology = struct.pack("<BBHIBBH", 0, 0, 1, 0, 0, 0, 1)
        discard = struct.pack("<III", _MOST_SECTORS, _MOST_RANGES, 1)
        return head + topology + discard + struct.pack("<IIB3x", _MOST_SECTORS, _MOST_RANGES, 1)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Nothing there can be written."""

    def connect(self, changed: Callable[[], None]) -> None:
        """It never changes."""

    def negotiated(self, features: int) -> None:
        """There is nothing to choose."""

    def serve(self, queue: Queue, index: int) -> None:
        """Do each request and tell of its end."""
        while (chain := queue.pop()) is not None:
            queue.push(chain, self._do(chain))

    def state(self) -> Saved:
        """It keeps nothing; what the image keeps is written, so that its end will not change the file."""
        if not self._image.readonly:
            self._image.flush()
        return {}

    def set_state(self, state: Saved) -> None:
        """It keeps nothing."""

    def close(self) -> None:
        self._image.close()

    def _do(self, chain: Chain) -> int:
        """Do a request; how many bytes of its buffers may have been written, the status among them."""
        kind, sector, data = _parse(chain)
        status = self._answer(kind, sector, data, chain)
        last = chain.writable[-1]
        last[len(last) - 1] = status
        return chain.room

    def _answer(self, kind: int, sector: int, data: list[memoryview], chain: Chain) -> Status:
        try:
            match kind:
                case Request.IN:
                    status = self._read(sector, _without_status(chain.writable), chain.room - 1)
                case Request.OUT:
                    status = self._write(sector, data)
                case Request.FLUSH:
                    status = self._flush()
                case Request.GET_ID:
                    status = self._identify(_without_status(chain.writable))
                case Request.DISCARD | Request.WRITE_ZEROES:
                    status = self._zero(data)
                case _:
                    status = Status.UNSUPPORTED
        except OSError as error:
            self._tell(error)
            return Status.IO_ERROR
        return status

    def _flush(self) -> Status:
        self._image.flush()
        return Status.OK

    def _read(self, sector: int, buffers: Sequence[memoryview], length: int) -> Status:
        if not self._holds(sector, length):
            return Status.IO_ERROR
        self._image.read_into(sector * SECTOR, buffers)
        return Status.OK

    def _write(self, sector: int, buffers: Sequence[memoryview]) -> Status:
        if self._image.readonly or not self._holds(sector, sum(map(len, buffers))):
            return Status.IO_ERROR
        self._image.write_from(sector * SECTOR, buffers)
        return Status.OK

    def _zero(self, data: Sequence[memoryview]) -> Status:
        """Discard or zero ranges (5.2.6.1): discarded ones read as zeroes here."""
        ranges = b"".join(data)
        if self._image.readonly or not ranges or len(ranges) % _RANGE.size:
            return Status.IO_ERROR
        found = list(_RANGE.iter_unpack(ranges))
        if len(found) > _MOST_RANGES or any(flags & ~_UNMAP for _, _, flags in found):
            return Status.UNSUPPORTED
        if not all(count <= _MOST_SECTORS and self._holds(at, count * SECTOR) for at, count, _ in found):
            return Status.IO_ERROR
        for sector, count, _ in found:
            if count:
                self._image.write_zeroes(sector * SECTOR, count * SECTOR)
        return Status.OK

    def _identify(self, buffers: Sequence[memoryview]) -> Status:
        if sum(map(len, buffers)) < _SERIAL_BYTES:
            return Status.IO_ERROR
        rest = self._serial.ljust(_SERIAL_BYTES, b"\0")
        for buffer in buffers:
            part, rest = rest[: len(buffer)], rest[len(buffer) :]
            buffer[: len(part)] = part
        return Status.OK

    def _holds(self, sector: int, length: int) -> bool:
        """Whether that many bytes from a sector on are whole sectors of the disk."""
        return length % SECTOR == 0 and sector * SECTOR + length <= self._image.size

    def _tell(self, error: OSError) -> None:
        """Say once of each kind of error that the host met it: the guest sees no more than that it failed."""
        if error.errno not in self._failures:
            self._failures.add(error.errno or errno.EIO)
            log.warn("disk %s: %s; the guest sees an I/O error", self._serial.decode(), error.strerror)


def _parse(chain: Chain) -> tuple[int, int, list[memoryview]]:
    """Type, sector and data of a request, however the driver laid it out. Raises `QueueError`."""
    readable = chain.readable
    if not chain.writable or not readable:
        raise QueueError("a request without a header, or without room for its status")
    if len(readable[0]) >= _HEADER.size:
        head, rest = readable[0][: _HEADER.size], readable[0][_HEADER.size :]
        data = [rest, *readable[1:]] if rest else readable[1:]
    else:
        joined = memoryview(b"".join(readable))
        if len(joined) < _HEADER.size:
            raise QueueError("a request with half a header")
        head, data = joined[: _HEADER.size], [joined[_HEADER.size :]]
    kind, _, sector = _HEADER.unpack(head)
    return kind, sector, data


def _without_status(writable: list[memoryview]) -> list[memoryview]:
    """The buffers without the last byte, where the status goes."""
    *others, last = writable
    return [*others, last[:-1]] if len(last) > 1 else others
