"""Passes on what the engine says of the code that it translates, while the machine runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gasang.machine.ending import Ending

if TYPE_CHECKING:
    from gasang.profile.perf_map import CodeRecord

_POLL_SECONDS = 0.2


class CodeLogReader:
    """A thread that gives `take`'s records to `use`, until the machine has ended and there are no more."""

    def __init__(
        self,
        take: Callable[[], Sequence[CodeRecord]],
        use: Callable[[Sequence[CodeRecord]], None],
        ending: Ending,
    ) -> None:
        self._take = take
        self._use = use
        self._ending = ending
        self._thread = threading.Thread(target=self._follow, name="gasang-code-log", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def join(self) -> None:
        """Wait until everything that was translated is passed on; the processors have stopped."""
        self._thread.join()
        self._use(self._take())

    def _follow(self) -> None:
        while self._ending.wait(_POLL_SECONDS) is None:
            self._use(self._take())
