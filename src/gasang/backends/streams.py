"""The standard streams by descriptor: unbuffered, and whole whatever mode others have put them in."""

from __future__ import annotations

import os
import select
from collections.abc import Callable


class Descriptor:
    """A descriptor to read from, as a file would be."""

    def __init__(self, number: int) -> None:
        self.number = number

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, as soon as there are some; none at the end. Raises `OSError`."""
        while True:
            try:
                return os.read(self.number, size)
            except BlockingIOError:
                select.select([self.number], [], [])


def writer(number: int) -> Callable[[bytes], None]:
    """A function that writes all of its argument to a descriptor. It raises `OSError`."""

    def write(data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(number, rest) :]
            except BlockingIOError:
                select.select([], [number], [])

    return write


def may_read(number: int) -> bool:
    """Whether the descriptor is open, and reading it would not stop this process as a background job."""
    try:
        os.fstat(number)
        return not os.isatty(number) or os.tcgetpgrp(number) == os.getpgrp()
    except OSError:
        return False
