"""Sizes as people write them: "512M", "1.5GiB", "64k".

K, M, G and T are powers of 1024 whether written K, KB or KiB, as in QEMU. A bare number counts MiB, as in
QEMU's `-m`.
"""

from __future__ import annotations

import re

from gasang.errors import ConfigError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

_UNITS = {"k": KIB, "m": MIB, "g": GIB, "t": TIB}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(?:([kmgt])(?:i?b)?)?", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """The number of bytes that `text` names; a number without a unit counts MiB.

    Raises `ConfigError` if `text` is not a size or not a whole number of bytes.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is not a size: write a number and a unit, such as 512M or 2G")
    number, unit = match.groups()
    whole, _, decimals = number.partition(".")
    scale: int = 10 ** len(decimals)
    size, rest = divmod(int(whole + decimals) * _UNITS[(unit or "m").lower()], scale)
    if rest:
        raise ConfigError(f"{text!r} is not a whole number of bytes")
    return size


def format_size(size: int) -> str:
    """`size` bytes in the largest unit that divides it: "512M", "1G", "1536K", "100 bytes"."""
    for letter, unit in (("T", TIB), ("G", GIB), ("M", MIB), ("K", KIB)):
        if size >= unit and size % unit == 0:
            return f"{size // unit}{letter}"
    return f"{size} bytes"
