"""`gasang fork`: clones of a machine in the background, which go on where it is."""

from __future__ import annotations

import argparse
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path

from gasang.cli import holder
from gasang.cli.arguments import UsageError
from gasang.cli.background import ask, check_name, names
from gasang.errors import ConfigError, GasangError
from gasang.guest.cache import cache_directory
from gasang.machine import Machine

_PATIENCE = 600.0
_EPILOG = """\
They share what memory they do not write, have clocks, random numbers and names of their own, and stay in the
background, each for `gasang exec CLONE`. A machine that may write a disk has no clones.

examples:
  gasang fork box                    box-1, or the next that is free
  gasang fork box left right
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gasang fork`."""
    parser.description = "Make clones of a machine in the background; it goes on too."
    parser.epilog = _EPILOG
    parser.add_argument("name", metavar="NAME", help="the machine")
    parser.add_argument("clones", metavar="CLONE", nargs="*", help="what each clone is to be called")


def main(options: argparse.Namespace) -> int:
    """Make all of them, or none; 0. Raises `ConfigError`, `UsageError`, `GasangError`."""
    known = names()
    clones = [check_name(each) for each in options.clones] or [_next_name(options.name, known)]
    if len(set(clones)) < len(clones):
        raise UsageError("two clones cannot have one name")
    for each in clones:
        if each in known:
            raise ConfigError(f"a machine called {each} runs already: gasang stop {each} stops it")
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    started: list[str] = []
    with tempfile.TemporaryDirectory(prefix="partial-", dir=cache) as directory:
        snapshot = Path(directory, "snapshot")
        ask(options.name, "snapshot", _PATIENCE, path=str(snapshot), clones="yes")
        try:
            for each in clones:
                holder.start(partial(Machine.restore, snapshot), each)
                started.append(each)
        except BaseException:
            for each in started:
                with suppress(GasangError):
                    ask(each, "stop")
            raise
    for each in clones:
        holder.say_name(each)
    return 0


def _next_name(name: str, known: list[str]) -> str:
    number = 1
    while f"{name}-{number}" in known:
        number += 1
    return f"{name}-{number}"
