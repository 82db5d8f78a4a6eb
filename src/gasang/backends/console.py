"""Connects a guest's console with our own streams."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from gasang.backends.streams import Descriptor
from gasang.backends.terminal import HELP, EscapeKeys, Key
from gasang.errors import GasangError, GuestTimeout

END_OF_INPUT = b"\x04"
"""Ctrl-D: what a terminal sends for the end of input."""

_QUIET_SECONDS = 0.5
_CHUNK = 4096


class Console(Protocol):
    """A guest's console, as a machine's channel has it."""

    def read(self, limit: int = ..., timeout: float | None = ...) -> bytes:
        """Output, at most `limit` bytes; none when the machine has ended. Raises `GuestTimeout`."""

    def write(self, data: bytes, /) -> None:
        """Input for the guest. Raises `GasangError` when the machine has ended."""


def show_output(console: Console, show: Callable[[bytes], object], input_ended: threading.Event) -> None:
    """Pass a console's output to `show` until the machine ends; raises what `show` raises.

    Once `input_ended`, the guest is told so: whenever the console is quiet, again and again, because a
    program that does not read yet would miss it.
    """
    while True:
        try:
            data = console.read(timeout=_QUIET_SECONDS)
        except GuestTimeout:
            if input_ended.is_set():
                with suppress(GasangError):  # if the machine has just ended, the next read says so
                    console.write(END_OF_INPUT)
            continue
        if not data:
            return
        show(data)


def pass_input(console: Console, source: Descriptor) -> None:
    """Pass a file or pipe on to a console, to its end. Raises `OSError`, `GasangError`."""
    while data := source.read(_CHUNK):
        console.write(data)


def pass_keys(
    console: Console,
    source: Descriptor,
    quit_: Callable[[], object],
    show: Callable[[bytes], object],
    help_: str = HELP,
) -> None:
    """Pass a terminal's keys on; Ctrl-A h shows `help_`, Ctrl-A x calls `quit_` and ends this.

    Raises `OSError`, `GasangError`.
    """
    keys = EscapeKeys()
    while typed := source.read(_CHUNK):
        for part in keys.split(typed):
            match part:
                case Key.QUIT:
                    quit_()
                    return
                case Key.HELP:
                    show(b"\r\n" + help_.replace("\n", "\r\n").encode())
                case bytes():
                    console.write(part)


def in_background(action: Callable[[], object]) -> None:
    """Do `action` in a thread that ends with the program; a stream or machine that is gone ends it too."""

    def guarded() -> None:
        # Whoever waits for the machine hears of its end; a stream that cannot be read has ended.
        with suppress(OSError, GasangError):
            action()

    threading.Thread(target=guarded, name="gasang-input", daemon=True).start()
