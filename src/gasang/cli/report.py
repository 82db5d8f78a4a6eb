"""What gasang says about itself, and how signals end it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

OUR_ERROR = 125
"""The exit code of gasang's own errors."""


class Terminated(BaseException):
    """A signal asks this process to end. Raised in the main thread, so that everything is tidied up."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def say(message: str) -> None:
    """One line on stderr, "gasang: ...". Nobody need be listening."""
    with suppress(OSError):
        os.write(2, f"gasang: {message}\n".encode(errors="replace"))


def complain(message: str) -> None:
    """An error, in one line on stderr."""
    say("error: " + message)


@contextmanager
def terminations_raise() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise `Terminated` in the block; those that were ignored stay so.

    After the first, a second Ctrl-C kills, and the others are ignored: we are ending.
    """
    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]

    def terminate(number: int, _: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_DFL if each == signal.SIGINT else signal.SIG_IGN)
        raise Terminated(number)

    before = {number: signal.signal(number, terminate) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
