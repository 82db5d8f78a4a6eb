"""The 9P transport device, by its queue."""

import errno
import os
import struct

import pytest
from driver import Memory, Ring

from gasang.errors import SnapshotError
from gasang.folders import Plan9Server, SharedFolder
from gasang.folders.plan9_messages import ANSWER_ERROR, HEAD, Kind, text
from gasang.virtio import Plan9Device
from gasang.virtio.queue import QueueError


class Guest:
    """A driver with one message at a time; attached, it has the folder as fid 0 and its file as fid 1."""

    def __init__(self, folder):
        self.ring = Ring(Memory(2 << 20), 0x10000)
        self.device = Plan9Device("tag", Plan9Server(SharedFolder(folder)))

    def attach(self):
        assert self.ask(Kind.VERSION, struct.pack("<I", 8192) + text(b"9P2000.L"))[0] == Kind.VERSION + 1
        self.ask(Kind.ATTACH, struct.pack("<II", 0, 0xFFFF_FFFF) + text(b"") + text(b"") + bytes(4))
        self.ask(Kind.WALK, struct.pack("<IIH", 0, 1, 1) + text(b"file"))
        assert self.ask(Kind.LOPEN, struct.pack("<II", 1, os.O_RDWR))[0] == Kind.LOPEN + 1

    def ask(self, kind, body, *, room=4096, size=None):
        """The answer's kind, and what is behind its header."""
        ring, memory = self.ring, self.ring.memory.bytes
        message = HEAD.pack(HEAD.size + len(body) if size is None else size, kind, 7) + body
        answer = ring.ask(self.device, message, room)
        length, answered, tag = HEAD.unpack_from(memory, answer)
        assert tag == 7
        return answered, bytes(memory[answer + HEAD.size : answer + length])


@pytest.fixture
def guest(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    made = Guest(tmp_path)
    yield made
    made.device.close()


def why_not(answer):
    assert answer[0] == ANSWER_ERROR
    return struct.unpack("<I", answer[1])[0]


def test_it_says_its_tag(guest):
    assert guest.device.config() == b"\x03\0tag"
    assert guest.device.features == 1


def test_bytes_pass_between_the_file_and_the_guest(guest, tmp_path):
    guest.attach()
    assert guest.ask(Kind.READ, struct.pack("<IQI", 1, 2, 100)) == (117, struct.pack("<I", 5) + b"ntent")
    assert guest.ask(Kind.READ, struct.pack("<IQI", 1, 0, 100), room=HEAD.size + 4 + 3)[1][4:] == b"con"
    assert guest.ask(Kind.WRITE, struct.pack("<IQI", 1, 7, 3) + b" +3") == (119, struct.pack("<I", 3))
    assert guest.ask(Kind.WRITE, struct.pack("<IQI", 1, 0, 99) + b"C") == (119, struct.pack("<I", 1))
    assert (tmp_path / "file").read_bytes() == b"Content +3"


def test_errors_are_told(guest):
    guest.attach()
    for kind, body, number in (
        (Kind.READ, struct.pack("<IQI", 9, 0, 10), errno.EBADF),
        (Kind.READ, struct.pack("<IQI", 1, 1 << 63, 10), errno.EINVAL),
        (Kind.WRITE, struct.pack("<IQ", 1, 0), errno.EINVAL),
        (Kind.WALK, struct.pack("<IIH", 0, 2, 1) + text(b"missing"), errno.ENOENT),
        (Kind.WALK, struct.pack("<IIH", 0, 2, 9), errno.EINVAL),
        (Kind.MKDIR, bytes(4) + text(b"a" * 300) + bytes(8), errno.ENAMETOOLONG),
        (255, b"", errno.EOPNOTSUPP),
    ):
        assert why_not(guest.ask(kind, body)) == number
    assert why_not(guest.ask(Kind.GETATTR, struct.pack("<IQ", 1, 0), room=100)) == errno.EMSGSIZE
    assert why_not(guest.ask(Kind.GETATTR, struct.pack("<IQ", 1, 0), size=3)) == errno.EINVAL


def test_what_is_no_message_is_a_broken_queue(guest):
    with pytest.raises(QueueError, match="without room"):
        guest.ask(Kind.CLUNK, bytes(4), room=HEAD.size + 3)
    with pytest.raises(QueueError, match="without room"):
        guest.ask(Kind.CLUNK, bytes(4), room=0)


def test_it_is_saved_only_when_it_is_not_mounted(guest):
    assert guest.device.state() == {}
    guest.attach()
    with pytest.raises(SnapshotError, match="unmount it first"):
        guest.device.state()
    guest.ask(Kind.CLUNK, struct.pack("<I", 1))
    guest.ask(Kind.CLUNK, struct.pack("<I", 0))
    assert guest.device.state() == {}
