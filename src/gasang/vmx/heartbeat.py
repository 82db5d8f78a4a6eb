"""Brings those who run a guest back to Python now and then.

Signals wait while a thread is in a guest. A guest that causes no VM exit would keep Ctrl-C from its
hypervisor, which runs in whatever thread its user likes, the main one too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from gasang._engine import Vcpu

_SECONDS = 0.1


class Heartbeat:
    """A thread that kicks the processors that are in a guest, ten times a second; started when it is
    needed."""

    def __init__(self) -> None:
        self._inside: set[Vcpu] = set()
        self._thread: threading.Thread | None = None

    @contextmanager
    def reaching(self, vcpu: Vcpu) -> Iterator[None]:
        """Kick this processor during the block; a kick may also come a moment later."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._beat, name="gasang-heartbeat", daemon=True)
            self._thread.start()
        self._inside.add(vcpu)
        try:
            yield
        finally:
            self._inside.discard(vcpu)

    def _beat(self) -> None:
        while True:
            time.sleep(_SECONDS)
            for vcpu in tuple(self._inside):
                vcpu.kick()


HEARTBEAT = Heartbeat()
"""One thread is enough for all processors of the process."""
