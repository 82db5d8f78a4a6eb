"""Writes what a machine notes to a descriptor, while it runs."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from gasang.backends.streams import writer

_POLL_SECONDS = 0.2

Source = TypeVar("Source")


class Trace(Generic[Source]):
    """A trace of machines, as far as these are a `Source`; `texts` is what there is to show."""

    def __init__(self, descriptor: int) -> None:
        self._write = writer(descriptor)

    def texts(self, machine: Source, cpu: int) -> Iterable[str]:
        """What a processor has noted since the last call."""
        raise NotImplementedError

    @contextmanager
    def following(self, machine: Source, cpus: int = 1) -> Iterator[None]:
        """Show what `machine` notes during the block, to the last."""
        done = threading.Event()
        thread = threading.Thread(target=self._follow, args=(machine, cpus, done), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _follow(self, machine: Source, cpus: int, done: threading.Event) -> None:
        try:
            last = False
            while not last:
                last = done.wait(_POLL_SECONDS)
                for cpu in range(cpus):
                    for text in self.texts(machine, cpu):
                        self._write(text.encode())
        except OSError:
            pass  # nobody reads the trace any more; the guest runs on
