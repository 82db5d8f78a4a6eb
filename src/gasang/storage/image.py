"""What a disk image is, whatever its format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

SECTOR = 512
"""Bytes of a sector: what sizes and requests are multiples of."""


class Image(Protocol):
    """A disk's content. One thread uses it at a time.

    Offsets and lengths are bytes, and inside the disk. Every method but `close` raises `OSError` for what the
    host cannot do, and may have done a part then.
    """

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def readonly(self) -> bool:
        """Nothing may be written."""

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill the buffers, one after the other, from `offset` on."""

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Write the buffers, one after the other, from `offset` on."""

    def write_zeroes(self, offset: int, length: int) -> None:
        """Let this range read as zeroes; what it takes of the host may be given back."""

    def flush(self) -> None:
        """Let what was written outlast the host."""

    def close(self) -> None:
        """Give the file back."""
