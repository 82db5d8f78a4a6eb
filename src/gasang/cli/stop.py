"""`gasang stop`: end a machine in the background."""

from __future__ import annotations

import argparse
import time
from contextlib import suppress

from gasang.cli.background import ask, names
from gasang.errors import GuestTimeout, MachineDied

_PATIENCE = 30.0
_LOOK_AGAIN = 0.02


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gasang stop`."""
    parser.description = "Stop a machine in the background, as if its power was cut."
    parser.add_argument("name", metavar="NAME", help="the machine")


def main(options: argparse.Namespace) -> int:
    """Stop it; 0 once it is gone. Raises `GasangError`."""
    with suppress(MachineDied):  # before it could answer
        ask(options.name, "stop")
    deadline = time.monotonic() + _PATIENCE
    while options.name in names():
        if time.monotonic() > deadline:
            raise GuestTimeout(f"the machine {options.name} is still there after {_PATIENCE:g} seconds")
        time.sleep(_LOOK_AGAIN)
    return 0
