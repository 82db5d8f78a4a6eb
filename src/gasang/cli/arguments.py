"""The command line's parser: argparse, with errors of one line."""

from __future__ import annotations

import argparse
import os
from functools import cache
from typing import NoReturn

_USUAL_COLUMNS, _MARGIN = 80, 2


class UsageError(Exception):
    """The command line cannot be understood; the message says what to write."""


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """As wide as the terminal, which argparse would measure anew for every option."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - _MARGIN)


@cache
def _columns() -> int:
    """Of the terminal, or as the environment says: as `shutil`, which takes long to load, finds them."""
    try:
        return int(os.environ["COLUMNS"]) or _USUAL_COLUMNS
    except (KeyError, ValueError):
        pass
    try:
        return os.get_terminal_size(1).columns or _USUAL_COLUMNS
    except OSError:
        return _USUAL_COLUMNS


class Parser(argparse.ArgumentParser):
    """Raises `UsageError` in place of printing its usage and ending the program."""

    def __init__(self, **settings: object) -> None:
        settings.setdefault("formatter_class", _Formatter)
        settings.setdefault("allow_abbrev", False)
        super().__init__(**settings)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """What argparse calls. Raises `UsageError`."""
        raise UsageError(f"{message} (see {self.prog} --help)")
