"""Raw images: the disk's bytes are the file's."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Sequence

MOST_BUFFERS = 1024
"""IOV_MAX: of one system call."""

_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02
_CLOSED = -1
"""In place of a descriptor whose number may be another file's by now."""

_ZEROES = memoryview(bytes(1 << 20))


class RawImage:
    """A file or block device of `size` bytes, which is its descriptor's from now on."""

    def __init__(self, descriptor: int, size: int, *, readonly: bool) -> None:
        self.size = size
        self.readonly = readonly
        self._descriptor = descriptor

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        _transfer(os.preadv, self._descriptor, offset, buffers)

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> None:
        _transfer(os.pwritev, self._descriptor, offset, buffers)

    def write_zeroes(self, offset: int, length: int) -> None:
        if not punch_hole(self._descriptor, offset, length):
            for start in range(offset, offset + length, len(_ZEROES)):
                self.write_from(start, [_ZEROES[: offset + length - start]])

    def flush(self) -> None:
        if not self.readonly:
            os.fdatasync(self._descriptor)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, _CLOSED
        os.close(descriptor)


_Call = Callable[[int, Sequence[memoryview], int], int]


def _transfer(call: _Call, descriptor: int, offset: int, buffers: Sequence[memoryview]) -> None:
    """Move all of the buffers, in as many calls as it takes."""
    expected = sum(map(len, buffers))
    if len(buffers) <= MOST_BUFFERS and call(descriptor, buffers, offset) == expected:
        return
    for buffer in buffers:
        done = 0
        while done < len(buffer):
            count = call(descriptor, [buffer[done:]], offset + done)
            if count == 0:
                raise OSError(errno.EIO, "the file is shorter than the disk")
            done += count
        offset += len(buffer)


_libc = ctypes.CDLL(None, use_errno=True)


def punch_hole(descriptor: int, offset: int, length: int) -> bool:
    """Let a range read as zeroes and take no room; False where the file system cannot do that.

    That is fallocate(2), for which Python has no name. Raises `OSError`.
    """
    arguments = (ctypes.c_int(descriptor), ctypes.c_int(_KEEP_SIZE | _PUNCH_HOLE), ctypes.c_int64(offset))
    if _libc.fallocate(*arguments, ctypes.c_int64(length)) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV):
        return False
    raise OSError(number, os.strerror(number))
