"""The one place where it is decided that a machine has ended, and how."""

from __future__ import annotations

import threading
from collections.abc import Callable

from gasang.machine.outcome import Outcome


class Ending:
    """The outcome of a machine: none while it lives; the first one given stays, as `judge` sees it."""

    def __init__(self, judge: Callable[[Outcome], Outcome]) -> None:
        self._judge = judge
        self._changed = threading.Condition()
        self._outcome: Outcome | None = None
        self._watchers: list[Callable[[Outcome], None]] = []

    @property
    def outcome(self) -> Outcome | None:
        return self._outcome

    def watch(self, watcher: Callable[[Outcome], None]) -> None:
        """Call `watcher` with the outcome, once, from the thread that ends the machine, or at once."""
        with self._changed:
            if self._outcome is None:
                self._watchers.append(watcher)
                return
            outcome = self._outcome
        watcher(outcome)

    def end(self, outcome: Outcome) -> None:
        """End the machine, unless it has ended."""
        outcome = self._judge(outcome)
        with self._changed:
            if self._outcome is not None:
                return
            self._outcome = outcome
            self._changed.notify_all()
            # Nobody is held any more by one who holds this.
            watchers, self._watchers = self._watchers, []
            self._judge = lambda outcome: outcome
        for watcher in watchers:
            watcher(outcome)

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Wait until the machine has ended; None if it has not after `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._outcome is not None, timeout)
            return self._outcome
