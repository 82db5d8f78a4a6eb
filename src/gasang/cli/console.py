"""`gasang console`: the console of a machine in the background, on this terminal or in a pipe."""

from __future__ import annotations

import argparse
import os
import socket
from contextlib import suppress

from gasang.backends.console import in_background, pass_keys
from gasang.backends.streams import Descriptor, may_read, writer
from gasang.backends.terminal import raw_mode
from gasang.cli.background import connect
from gasang.cli.report import say

_STDIN, _STDOUT = 0, 1
_CHUNK = 4096
_HELP = """\
Ctrl-A x  leave; the machine runs on
Ctrl-A a  send Ctrl-A (Ctrl-A Ctrl-A does the same)
Ctrl-A h  this help
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gasang console`."""
    parser.description = (
        "Show the console of a machine in the background: the end of what was there, and what comes."
    )
    parser.epilog = "On a terminal, Ctrl-A x leaves it. In a pipe, the end of stdin does."
    parser.add_argument("name", metavar="NAME", help="the machine")


def main(options: argparse.Namespace) -> int:
    """Until the machine ends, or its user leaves; 0. Raises `GasangError`."""
    with connect(options.name, "console") as connection:
        show = writer(_STDOUT)
        if os.isatty(_STDIN) and os.isatty(_STDOUT):
            say(f"console of {options.name} (Ctrl-A x leaves, Ctrl-A h shows help)")
            with raw_mode(_STDIN):
                remote = _Remote(connection)
                keys = Descriptor(_STDIN)
                in_background(lambda: pass_keys(remote, keys, remote.leave, show, _HELP))
                _show(connection)
            return 0
        if may_read(_STDIN):
            in_background(lambda: _pass(connection))
        _show(connection)
    return 0


class _Remote:
    """A console of another process, to write to."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def read(self, limit: int = 0, timeout: float | None = None) -> bytes:
        """Another thread reads."""
        raise NotImplementedError

    def write(self, data: bytes, /) -> None:
        self._connection.sendall(data)

    def leave(self) -> None:
        """See no more of it."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)


def _pass(connection: socket.socket) -> None:
    keys = Descriptor(_STDIN)
    while data := keys.read(_CHUNK):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_RDWR)


def _show(connection: socket.socket) -> None:
    show = writer(_STDOUT)
    with suppress(ConnectionError):
        while data := connection.recv(_CHUNK):
            show(data)
