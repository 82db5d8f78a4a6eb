"""The file system device (Virtio 1.2, 5.11): FUSE requests, answered by a server of one folder."""

from __future__ import annotations

import errno
import os
import struct

from gasang.folders import FuseServer
from gasang.folders.fuse_messages import READ, REPLY, REQUEST, WRITE, WRITTEN, Operation
from gasang.folders.shared import MOST_BYTES
from gasang.virtio.buffers import content, fill, part
from gasang.virtio.folder import FolderDevice, outcome
from gasang.virtio.queue import Chain, QueueError

_TAG_BYTES = 36
_MOST_BODY = 1 << 16
_UNANSWERED = (Operation.FORGET, Operation.BATCH_FORGET, Operation.INTERRUPT)


class FsDevice(FolderDevice):
    """A folder under a name, `tag`, by which the guest mounts it."""

    device_id = 26
    features = 0
    queues = 2

    def __init__(self, tag: str, server: FuseServer) -> None:
        super().__init__(server)
        self._tag = tag.encode()
        self._server = server

    def config(self) -> bytes:
        """struct virtio_fs_config (5.11.4): the tag, and one queue of requests."""
        return struct.pack(f"<{_TAG_BYTES}sI", self._tag, 1)

    def _answer(self, chain: Chain) -> int:
        head = content(chain.readable, 0, REQUEST.size)
        if len(head) < REQUEST.size:
            raise QueueError("a request with half a header")
        length, operation, number, node, *_ = REQUEST.unpack(head)
        room = chain.room
        if operation in _UNANSWERED:
            self._server.forget(operation, node, _body(chain, operation, length))
            return 0
        if room < REPLY.size:
            raise QueueError("a request without room for its answer")
        body = _body(chain, operation, length)
        count, code = outcome(lambda: self._done(operation, node, body, chain, room - REPLY.size))
        fill(chain.writable, REPLY.pack(REPLY.size + count, -code, number))
        return REPLY.size + count

    def _done(self, operation: int, node: int, body: bytes, chain: Chain, room: int) -> int:
        """How many bytes of an answer are behind its header."""
        if operation == Operation.READ and len(body) >= READ.size:
            handle, offset, size, *_ = READ.unpack_from(body)
            buffers = part(chain.writable, REPLY.size, min(size, MOST_BYTES))
            return os.preadv(self._server.file(handle), buffers, offset)
        if operation == Operation.WRITE and len(body) >= WRITE.size:
            handle, offset, size, *_ = WRITE.unpack_from(body)
            buffers = part(chain.readable, REQUEST.size + WRITE.size, min(size, MOST_BYTES))
            answer = WRITTEN.pack(os.pwritev(self._server.file(handle, writing=True), buffers, offset), 0)
        else:
            answer = self._server.answer(operation, node, body)
        if len(answer) > room:
            raise OSError(errno.EIO, "no room for the answer")
        fill(part(chain.writable, REPLY.size, len(answer)), answer)
        return len(answer)


def _body(chain: Chain, operation: int, length: int) -> bytes:
    """What is behind a request's header, but for the bytes to be written to a file."""
    most = WRITE.size if operation == Operation.WRITE else _MOST_BODY
    return content(chain.readable, REQUEST.size, min(max(length - REQUEST.size, 0), most))
