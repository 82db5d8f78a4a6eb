"""The entropy device (Virtio 1.2, 5.4): random bytes for the guest's own generator."""

from __future__ import annotations

from collections.abc import Callable

from gasang.device import Saved
from gasang.virtio.queue import Queue

_MOST_BYTES = 1 << 16
"""Of one request: a driver that asks for more is given less, which it may be."""


class EntropyDevice:
    """Fills what the driver offers with what `source` gives: so many bytes, none twice."""

    device_id = 4
    pci_class = 0x00FF00
    features = 0
    queues = 1

    def __init__(self, source: Callable[[int], bytes]) -> None:
        self._source = source

    def config(self) -> bytes:
        """It has none."""
        return b""

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Nothing there can be written."""

    def connect(self, changed: Callable[[], None]) -> None:
        """It never changes."""

    def negotiated(self, features: int) -> None:
        """There is nothing to choose."""

    def serve(self, queue: Queue, index: int) -> None:
        """Fill each request's buffers."""
        while (chain := queue.pop()) is not None:
            written = 0
            for buffer in chain.writable:
                count = min(len(buffer), _MOST_BYTES - written)
                buffer[:count] = self._source(count)
                written += count
            queue.push(chain, written)

    def state(self) -> Saved:
        """It keeps nothing."""
        return {}

    def set_state(self, state: Saved) -> None:
        """It keeps nothing."""

    def close(self) -> None:
        """It has nothing of the host."""
