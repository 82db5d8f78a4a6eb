"""The terminal in raw mode: every key goes to the guest, and the terminal is mended whatever happens."""

from __future__ import annotations

import signal
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

ESCAPE = 0x01
"""Ctrl-A: the key that gasang keeps for itself."""

HELP = """\
Ctrl-A x  stop the machine
Ctrl-A a  send Ctrl-A (Ctrl-A Ctrl-A does the same)
Ctrl-A h  this help
"""

# Outlives us if we are killed, reads the end of its standard input then, and mends the terminal.
_GUARDIAN = """\
trap '' INT QUIT HUP TERM TSTP TTIN TTOU
saved=$(stty -g <&2) || exit
echo
read -r _
stty "$saved" <&2
"""


class Key(Enum):
    """What a sequence that begins with Ctrl-A asks gasang for."""

    QUIT = "x"
    HELP = "h"


class EscapeKeys:
    """Tells the keys for gasang from those for the guest.

    Ctrl-A and a key without a meaning are both for the guest, so that Ctrl-A keeps its own use there.
    """

    def __init__(self) -> None:
        self._escaped = False

    def split(self, typed: bytes) -> Iterator[bytes | Key]:
        """The bytes for the guest and the requests to gasang, in the order in which they were typed."""
        plain = bytearray()
        for byte in typed:
            if not self._escaped:
                self._escaped = byte == ESCAPE
                if not self._escaped:
                    plain.append(byte)
                continue
            self._escaped = False
            match byte:
                case 0x01 | 0x61:  # Ctrl-A, a
                    plain.append(ESCAPE)
                case 0x78 | 0x68:  # x, h
                    if plain:
                        yield bytes(plain)
                        plain.clear()
                    yield Key(chr(byte))
                case _:
                    plain += bytes([ESCAPE, byte])
        if plain:
            yield bytes(plain)


@contextmanager
def raw_mode(descriptor: int) -> Iterator[None]:
    """The terminal behind `descriptor` passes every byte on, unchanged and unechoed.

    It is as before after the block, also if this process is killed: a process of its own waits for that.
    """
    before = termios.tcgetattr(descriptor)
    guardian = _start_guardian(descriptor)
    old_handler = signal.signal(signal.SIGCONT, lambda *_: tty.setraw(descriptor, termios.TCSANOW))
    try:
        tty.setraw(descriptor, termios.TCSADRAIN)
        yield
    finally:
        signal.signal(signal.SIGCONT, old_handler)
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
        if guardian is not None:
            guardian.communicate()


def _start_guardian(descriptor: int) -> subprocess.Popen[bytes] | None:
    """A process that mends the terminal when our end of its standard input closes; None without a shell."""
    import subprocess  # noqa: PLC0415 - slow to load, and not always needed

    try:
        guardian = subprocess.Popen(
            ["sh", "-c", _GUARDIAN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=descriptor
        )
    except OSError:
        return None
    assert guardian.stdout is not None, "asked for"
    guardian.stdout.readline()  # it knows the mode to come back to
    return guardian
