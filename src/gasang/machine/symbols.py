"""The symbols of what a machine runs: its kernel, and programs that the configuration names."""

from __future__ import annotations

import re
from pathlib import Path

from gasang import loaders
from gasang.config import MachineConfig
from gasang.errors import ConfigError
from gasang.loaders import BootRequest
from gasang.profile import Symbols, elf_symbols, kernel_symbols

_ELF = b"\x7fELF"
_PROGRAM = re.compile(r"(.+?)(?:@(0x[0-9a-fA-F]+|[0-9]+))?", re.DOTALL)


def guest_symbols(config: MachineConfig, request: BootRequest) -> Symbols:
    """What names addresses of this guest. Raises `ConfigError` for a program that cannot be read."""
    symbols = Symbols()
    for each in config.symbols:
        symbols += _program_symbols(each)
    if request.kernel[:4] == _ELF:
        symbols += elf_symbols(request.kernel, f"kernel {request.path}")
    for segment in loaders.load(request).segments:
        symbols += kernel_symbols(segment.data)
    return symbols


def _program_symbols(named: str) -> Symbols:
    """The symbols of "FILE" or "FILE@ADDRESS"."""
    match = _PROGRAM.fullmatch(named)
    if match is None:
        raise ConfigError("symbols names no file: give FILE or FILE@ADDRESS (--symbols)")
    path, base = match[1], int(match[2] or "0", 0)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"the symbols of {path} cannot be read: {error.strerror}") from error
    return elf_symbols(content, path, base)
