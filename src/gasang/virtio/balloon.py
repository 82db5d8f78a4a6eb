"""The memory balloon (Virtio 1.2, 5.5): pages that the guest gives up or has free are the host's again."""

from __future__ import annotations

import struct
from collections.abc import Callable

from gasang.device import Saved
from gasang.virtio.queue import Chain, Queue, QueueError

PAGE = 4096
"""Bytes of a page of the balloon."""

_INFLATE, _DEFLATE, _REPORT = range(3)


class Feature:
    """Bits of its features (5.5.3)."""

    DEFLATE_ON_OOM = 1 << 2
    REPORTING = 1 << 5


class Balloon:
    """`discard` gives the host back what ranges of guest memory take, (address, length) each.

    Pages in the balloon and pages that the guest reports as free are given back; when it uses one again it
    finds zeroes.
    """

    device_id = 5
    pci_class = 0x00FF00
    features = Feature.DEFLATE_ON_OOM | Feature.REPORTING
    queues = 3

    def __init__(self, discard: Callable[[list[tuple[int, int]]], None]) -> None:
        # wiring
        self._discard = discard
        self._changed: Callable[[], None] = lambda: None
        # volatile state
        self._wanted = 0
        self._actual = 0

    @property
    def actual(self) -> int:
        """Bytes in the balloon, as the driver says."""
        return self._actual * PAGE

    def inflate_to(self, size: int) -> None:
        """Ask the guest for so many bytes in all. It gives them when it can."""
        self._wanted = size // PAGE
        self._changed()

    def connect(self, changed: Callable[[], None]) -> None:
        """Call `changed` when the configuration has changed."""
        self._changed = changed

    def config(self) -> bytes:
        """struct virtio_balloon_config (5.5.4), without what was not negotiated."""
        return struct.pack("<II", self._wanted, self._actual)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """The driver says how many pages are in the balloon."""
        if (offset, size) == (4, 4):
            self._actual = value

    def negotiated(self, features: int) -> None:
        """The queue for reports is there whether it is used or not."""

    def serve(self, queue: Queue, index: int) -> None:
        """Give back what each request names."""
        while (chain := queue.pop()) is not None:
            if index == _INFLATE:
                self._discard(_pages(chain))
            elif index == _REPORT:
                self._discard(_whole_pages(chain.writable_ranges))
            queue.push(chain, 0)

    def state(self) -> Saved:
        """How much is in it, and is to be."""
        return {"wanted": self._wanted, "actual": self._actual}

    def set_state(self, state: Saved) -> None:
        """Have that."""
        self._wanted, self._actual = state["wanted"] & 0xFFFFFFFF, state["actual"] & 0xFFFFFFFF

    def close(self) -> None:
        """It has nothing of the host."""


def _pages(chain: Chain) -> list[tuple[int, int]]:
    """The pages that a request lists by number; neighbours are one range. Raises `QueueError`."""
    listed = b"".join(chain.readable)
    if len(listed) % 4:
        raise QueueError(f"a list of pages of {len(listed)} bytes")
    ranges: list[tuple[int, int]] = []
    for (number,) in struct.iter_unpack("<I", listed):
        if ranges and sum(ranges[-1]) == number * PAGE:
            start, length = ranges.pop()
            ranges.append((start, length + PAGE))
        else:
            ranges.append((number * PAGE, PAGE))
    return ranges


def _whole_pages(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What of each range is whole pages."""
    found = []
    for address, length in ranges:
        start, end = -(-address // PAGE) * PAGE, (address + length) // PAGE * PAGE
        if start < end:
            found.append((start, end - start))
    return found
