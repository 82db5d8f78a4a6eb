"""The command line's parser: argparse, with errors of one line."""

from __future__ import annotations

import argparse
from typing import NoReturn


class UsageError(Exception):
    """The command line cannot be understood; the message says what to write."""


class Parser(argparse.ArgumentParser):
    """Raises `UsageError` in place of printing its usage and ending the program."""

    def __init__(self, **settings: object) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        settings.setdefault("allow_abbrev", False)
        super().__init__(**settings)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """What argparse calls. Raises `UsageError`."""
        raise UsageError(f"{message} (see {self.prog} --help)")
