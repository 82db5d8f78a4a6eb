"""The 9P transport device (Virtio 1.2, 5; QEMU's virtio-9p): messages, answered by a server of one folder."""

from __future__ import annotations

import errno
import os
import struct

from gasang.folders import Plan9Server
from gasang.folders.plan9 import MOST_MESSAGE
from gasang.folders.plan9_messages import ANSWER_ERROR, ERROR, HEAD, TRANSFER, TRANSFERRED, Kind
from gasang.virtio.buffers import content, fill, part
from gasang.virtio.folder import FolderDevice, outcome
from gasang.virtio.queue import Chain, QueueError

_MOUNT_TAG = 1 << 0
_MOST_BODY = 1 << 16


class Plan9Device(FolderDevice):
    """A folder under a name, `tag`, by which the guest mounts it."""

    device_id = 9
    features = _MOUNT_TAG
    queues = 1

    def __init__(self, tag: str, server: Plan9Server) -> None:
        super().__init__(server)
        self._tag = tag.encode()
        self._server = server

    def config(self) -> bytes:
        """struct virtio_9p_config: the tag's length, the tag."""
        return struct.pack(f"<H{len(self._tag)}s", len(self._tag), self._tag)

    def _answer(self, chain: Chain) -> int:
        head = content(chain.readable, 0, HEAD.size)
        if len(head) < HEAD.size:
            raise QueueError("a message with half a header")
        size, kind, tag = HEAD.unpack(head)
        room = chain.room - HEAD.size
        if room < ERROR.size:
            raise QueueError("a message without room for its answer")
        count, code = outcome(lambda: self._done(kind, size - HEAD.size, chain, room))
        answer = kind + 1
        if code:
            answer, count = ANSWER_ERROR, ERROR.size
            fill(part(chain.writable, HEAD.size, count), ERROR.pack(code))
        fill(chain.writable, HEAD.pack(HEAD.size + count, answer & 0xFF, tag))
        return HEAD.size + count

    def _done(self, kind: int, length: int, chain: Chain, room: int) -> int:
        """How many bytes of an answer are behind its header."""
        if kind == Kind.READ:
            return self._read(chain, room)
        if kind == Kind.WRITE:
            answer = self._write(chain, length)
        else:
            message = content(chain.readable, HEAD.size, min(max(length, 0), _MOST_BODY))
            answer = self._server.answer(kind, message)
        if len(answer) > room:
            raise OSError(errno.EMSGSIZE, "no room for the answer")
        fill(part(chain.writable, HEAD.size, len(answer)), answer)
        return len(answer)

    def _read(self, chain: Chain, room: int) -> int:
        fid, offset, size = _transfer(chain)
        most = min(size, room - TRANSFERRED.size, MOST_MESSAGE - HEAD.size - TRANSFERRED.size)
        buffers = part(chain.writable, HEAD.size + TRANSFERRED.size, most)
        count = os.preadv(self._server.file(fid), buffers, offset)
        fill(part(chain.writable, HEAD.size, TRANSFERRED.size), TRANSFERRED.pack(count))
        return TRANSFERRED.size + count

    def _write(self, chain: Chain, length: int) -> bytes:
        fid, offset, size = _transfer(chain)
        most = min(size, length - TRANSFER.size, MOST_MESSAGE - HEAD.size - TRANSFER.size)
        buffers = part(chain.readable, HEAD.size + TRANSFER.size, most)
        return TRANSFERRED.pack(os.pwritev(self._server.file(fid, writing=True), buffers, offset))


def _transfer(chain: Chain) -> tuple[int, int, int]:
    """Fid, offset and count."""
    fields = content(chain.readable, HEAD.size, TRANSFER.size)
    if len(fields) < TRANSFER.size:
        raise OSError(errno.EINVAL, "half a message")
    fid, offset, count = TRANSFER.unpack(fields)
    return fid, offset, count
