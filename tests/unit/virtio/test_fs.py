"""The file system device, by its queue."""

import errno
import os
import struct

import pytest
from driver import Memory, Ring

from gasang.errors import SnapshotError
from gasang.folders import FuseServer, SharedFolder
from gasang.folders import fuse_messages as messages
from gasang.folders.fuse_messages import REPLY, REQUEST, Operation
from gasang.folders.nodes import ROOT
from gasang.virtio.fs import FsDevice
from gasang.virtio.queue import QueueError


class Guest:
    """A driver with one request at a time."""

    def __init__(self, folder):
        self.ring = Ring(Memory(2 << 20), 0x10000)
        self.device = FsDevice("tag", FuseServer(SharedFolder(folder)))

    def ask(self, operation, node, body, *, data=b"", room=4096):
        """The error, and what is behind the answer's header."""
        ring, memory = self.ring, self.ring.memory.bytes
        request = (
            REQUEST.pack(REQUEST.size + len(body) + len(data), operation, 7, node, 0, 0, 0, 0) + body + data
        )
        answer = ring.ask(self.device, request, room, 1)
        if not room:
            return None
        length, code, number = REPLY.unpack_from(memory, answer)
        assert number == 7
        return -code, bytes(memory[answer + REPLY.size : answer + length])


@pytest.fixture
def guest(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    made = Guest(tmp_path)
    yield made
    made.device.close()


def opened(guest):
    _, entry = guest.ask(Operation.LOOKUP, ROOT, b"file\0")
    node = struct.unpack_from("<Q", entry)[0]
    _, reply = guest.ask(Operation.OPEN, node, messages.OPEN.pack(os.O_RDWR, 0))
    return node, struct.unpack_from("<Q", reply)[0]


def test_it_says_its_tag(guest):
    assert guest.device.config() == b"tag".ljust(36, b"\0") + struct.pack("<I", 1)


def test_bytes_go_between_file_and_buffers(guest, tmp_path):
    node, handle = opened(guest)
    assert guest.ask(Operation.READ, node, messages.READ.pack(handle, 2, 100, 0, 0, 0, 0)) == (0, b"ntent")
    written = guest.ask(Operation.WRITE, node, messages.WRITE.pack(handle, 7, 3, 0, 0, 0, 0), data=b" +3")
    assert written == (0, struct.pack("<II", 3, 0))
    assert (tmp_path / "file").read_bytes() == b"content +3"


@pytest.mark.parametrize(
    ("operation", "body", "code"),
    [
        (Operation.LOOKUP, b"missing\0", errno.ENOENT),
        (99, b"", errno.ENOSYS),
        (Operation.OPEN, b"\0", errno.EINVAL),
        (Operation.READ, b"\0", errno.ENOSYS),
        (Operation.READ, messages.READ.pack(99, 0, 10, 0, 0, 0, 0), errno.EBADF),
        (Operation.MKDIR, messages.MAKE.pack(0o755, 0) + b"a" * 300 + b"\0", errno.ENAMETOOLONG),
    ],
)
def test_errors_are_told(guest, operation, body, code):
    assert guest.ask(operation, ROOT, body) == (code, b"")


def test_an_offset_beyond_files_is_an_error(guest):
    node, handle = opened(guest)
    code, _ = guest.ask(Operation.READ, node, messages.READ.pack(handle, 1 << 63, 10, 0, 0, 0, 0))
    assert code == errno.EINVAL


def test_what_has_no_answer_gets_none(guest):
    assert guest.ask(Operation.FORGET, 99, messages.FORGET.pack(1), room=0) is None


def test_half_a_header_breaks_the_device(guest):
    guest.ring.offer(20, 0)
    with pytest.raises(QueueError, match="half a header"):
        guest.device.serve(guest.ring.queue, 1)


def test_no_room_for_an_answer_breaks_the_device_or_is_an_error(guest):
    assert guest.ask(Operation.LOOKUP, ROOT, b"file\0", room=20) == (errno.EIO, b"")
    with pytest.raises(QueueError, match="without room"):
        guest.ask(Operation.LOOKUP, ROOT, b"file\0", room=8)


def test_it_cannot_be_saved_while_it_is_mounted(guest):
    assert guest.device.state() == {}
    guest.ask(Operation.INIT, 0, messages.INIT.pack(7, 38, 1 << 17, 0xFFFFFFFF))
    with pytest.raises(SnapshotError, match="unmount it"):
        guest.device.state()
    guest.ask(Operation.DESTROY, 0, b"")
    assert guest.device.state() == {}
