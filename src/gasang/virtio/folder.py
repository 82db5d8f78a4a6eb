"""What the devices that share a folder have in common, whichever protocol they speak."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Protocol

from gasang.device import Saved
from gasang.errors import SnapshotError
from gasang.virtio.queue import Chain, Queue


class Server(Protocol):
    """What answers for the folder."""

    @property
    def used(self) -> bool:
        """Whether the guest has mounted it."""

    def close(self) -> None:
        """Close all files."""


class FolderDevice:
    """A device whose driver asks, and is answered, request by request."""

    pci_class = 0x018000

    def __init__(self, server: Server) -> None:
        self._used_server = server

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Nothing there can be written."""

    def connect(self, changed: Callable[[], None]) -> None:
        """It never changes."""

    def negotiated(self, features: int) -> None:
        """There is nothing to choose."""

    def serve(self, queue: Queue, index: int) -> None:
        """Answer each request."""
        while (chain := queue.pop()) is not None:
            queue.push(chain, self._answer(chain))

    def state(self) -> Saved:
        """Nothing, while it is not mounted. Raises `SnapshotError`: open files cannot be saved."""
        if self._used_server.used:
            raise SnapshotError("the guest has mounted a folder of the host: unmount it first")
        return {}

    def set_state(self, state: Saved) -> None:
        """It keeps nothing."""

    def close(self) -> None:
        """Close all files."""
        self._used_server.close()

    def _answer(self, chain: Chain) -> int:
        """How many bytes were written."""
        raise NotImplementedError


def outcome(do: Callable[[], int]) -> tuple[int, int]:
    """What is done for a guest: its count and 0, or else 0 and the error's number."""
    try:
        return do(), 0
    except OSError as failure:
        return 0, failure.errno or errno.EIO
    except (ValueError, OverflowError):
        return 0, errno.EINVAL
