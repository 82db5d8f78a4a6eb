"""What is to be done once: in the background, or by whoever needs it first."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue


class Once:
    """`act` is done by whoever comes first to `wait`, or by a thread of the background; others wait."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act: Callable[[], None] | None = act
        self._begun = threading.Lock()
        self._done = threading.Event()

    def wait(self) -> None:
        """Do it, or wait until it is done."""
        self.begin()
        self._done.wait()

    def begin(self) -> None:
        """Do it, unless somebody does or has."""
        if not self._begun.acquire(blocking=False):
            return
        act, self._act = self._act, None
        try:
            if act is not None:
                act()
        finally:
            self._done.set()

    def in_background(self) -> None:
        """Let a thread do it soon: as many things are done at a time as the host has processors."""
        _BACKGROUND.put(self)


class _Background:
    def __init__(self) -> None:
        self._waiting: SimpleQueue[Once] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0

    def put(self, once: Once) -> None:
        self._waiting.put(once)
        with self._lock:
            if self._threads < (os.cpu_count() or 1):
                self._threads += 1
                threading.Thread(target=self._work, name="gasang-background", daemon=True).start()

    def _work(self) -> None:
        while True:
            self._waiting.get().begin()


_BACKGROUND = _Background()
