"""`gasang snapshot`: write a machine in the background to a file, for `gasang restore`."""

from __future__ import annotations

import argparse
import os

from gasang.cli.background import ask

_PATIENCE = 600.0
"""Seconds: a large guest is a large file."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gasang snapshot`."""
    parser.description = "Write a machine in the background to a file; it goes on."
    parser.add_argument("name", metavar="NAME", help="the machine")
    parser.add_argument("file", metavar="FILE", help="where the snapshot goes")


def main(options: argparse.Namespace) -> int:
    """Write it; 0. Raises `GasangError`."""
    ask(options.name, "snapshot", _PATIENCE, path=os.path.abspath(options.file))
    return 0
