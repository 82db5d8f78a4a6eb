"""`gasang cp`: files and trees into a machine in the background, and out of it."""

from __future__ import annotations

import argparse

from gasang.cli.arguments import UsageError
from gasang.cli.background import agent_of

_EPILOG = """\
One of the two is NAME:PATH, in the machine NAME. A directory comes with all that is in it. If the destination
is a directory, the copy goes into it. A file here with a colon in its name is written ./FILE.

examples:
  gasang cp src box:/tmp
  gasang cp box:/var/log/messages .
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gasang cp`."""
    parser.description = "Copy files into a machine in the background, or out of it."
    parser.epilog = _EPILOG
    parser.add_argument("source", metavar="SRC")
    parser.add_argument("destination", metavar="DST")


def main(options: argparse.Namespace) -> int:
    """Copy; 0. Raises `UsageError`, `GasangError`."""
    source, destination = _split(options.source), _split(options.destination)
    if (source[0] is None) == (destination[0] is None):
        raise UsageError("one of the two is in a machine, NAME:PATH, and the other is here")
    if not source[1] or not destination[1]:
        raise UsageError("a path is empty: write NAME:PATH")
    try:
        if source[0] is not None:
            agent_of(source[0]).copy_out(source[1], destination[1])
        elif destination[0] is not None:
            agent_of(destination[0]).copy_in(source[1], destination[1])
    except OSError as error:
        raise UsageError(f"{error.filename or 'here'}: {error.strerror or error}") from error
    return 0


def _split(text: str) -> tuple[str | None, str]:
    """Machine and path; a path that has a slash before its colon is here."""
    name, colon, path = text.partition(":")
    return (name, path) if colon and "/" not in name else (None, text)
