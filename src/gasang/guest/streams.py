"""Where a command's standard input comes from, and where its output goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Sink = Callable[[bytes], object]
"""What output is passed to as it comes."""


class Source(Protocol):
    """Standard input for a command: a binary file opened for reading, say."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""
