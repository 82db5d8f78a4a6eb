"""`gasang ps`: the machines in the background."""

from __future__ import annotations

import argparse
import json
import time
from contextlib import suppress
from dataclasses import asdict

from gasang.cli.background import About, about, names
from gasang.errors import GasangError
from gasang.units import format_size


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gasang ps`."""
    parser.description = "List the machines in the background."
    parser.add_argument("--json", action="store_true", help="for programs: a list of objects")


def main(options: argparse.Namespace) -> int:
    """List them; 0."""
    found: list[About] = []
    for name in names():
        with suppress(GasangError):  # it has just ended
            found.append(about(name))
    if options.json:
        print(json.dumps([asdict(each) for each in found], indent=2))
        return 0
    rows = [("NAME", "PID", "UP", "CPUS", "MEMORY", "ACCELERATOR"), *map(_row, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _row(machine: About) -> tuple[str, ...]:
    seconds = max(0, int(time.time() - machine.started))
    up = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    memory = format_size(machine.memory)
    return machine.name, str(machine.pid), up, str(machine.cpus), memory, machine.accelerator
