"""A request's buffers, which lie one behind the other, as the bytes that they are together."""

from __future__ import annotations

from collections.abc import Sequence


def part(buffers: Sequence[memoryview], start: int, length: int) -> list[memoryview]:
    """The bytes from `start` on of buffers that lie one behind the other; fewer where they end."""
    found = []
    for buffer in buffers:
        if length <= 0:
            break
        if start < len(buffer):
            piece = buffer[start : start + length]
            found.append(piece)
            length -= len(piece)
        start = max(0, start - len(buffer))
    return found


def content(buffers: Sequence[memoryview], start: int, length: int) -> bytes:
    """A copy of those bytes, which the guest does not change any more."""
    return b"".join(part(buffers, start, length))


def fill(buffers: Sequence[memoryview], data: bytes | memoryview) -> None:
    """Write `data` to the beginning of buffers that have room for it."""
    for buffer in part(buffers, 0, len(data)):
        buffer[:] = data[: len(buffer)]
        data = data[len(buffer) :]
