"""Reads the symbols that a Linux kernel carries for itself, out of its uncompressed image.

The tables (Linux, scripts/kallsyms.c and kernel/kallsyms.c) have no header that says where they are. What
can be recognized is the token table: 256 texts, of which those numbered "0" to "9" are these digits, and
behind it the 256 offsets of these texts. The others lie around it in an order that depends on the version:

    until 6.3   offsets, relative base, count, names, markers, token table, token index
    since 6.4   count, names, markers, token table, token index, offsets, relative base

Since 6.2, and in later patches of 6.1, the numbers of the names in alphabetical order, three bytes each, are
in one of the gaps. A name is its length and so many tokens; `markers` are the positions of every 256th name.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import accumulate

_TOKENS = 256
_LONGEST_TOKEN = 64
_DIGITS = b"".join(bytes([digit, 0]) for digit in b"0123456789")
_ALIGNMENT = 8
_NAMES_PER_MARKER = 256
_LONGEST_ENTRY = 514
_LONGEST_NUMBERING = 3 << 20
_CODE_TYPES = frozenset(b"tTwW")


def read(image: bytes | memoryview) -> list[tuple[int, str]]:
    """The symbols of code as (address, name), by ascending address; empty if the image has no such tables."""
    content = bytes(image)
    at = content.find(_DIGITS)
    while at != -1:
        tables = _Tables.around(content, at)
        if tables is not None:
            return sorted(tables.symbols())
        at = content.find(_DIGITS, at + 1)
    return []


class _Tables:
    """The tables of one kernel."""

    def __init__(self, content: bytes, tokens: list[bytes], names: int, addresses: list[int]) -> None:
        self._content = content
        self._tokens = tokens
        self._names = names
        self._addresses = addresses

    @staticmethod
    def around(content: bytes, digits: int) -> _Tables | None:
        """The tables around a token table whose "0" is at `digits`; None if there is something else."""
        found_tokens = _tokens_around(content, digits)
        if found_tokens is None:
            return None
        start, tokens, after = found_tokens
        found = _names_before_tokens(content, start)
        if found is None:
            return None
        names, count = found
        addresses = _addresses_before(content, names - _ALIGNMENT, count) or _addresses_at(
            content, after, count
        )
        return _Tables(content, tokens, names, addresses) if addresses else None

    def symbols(self) -> Iterator[tuple[int, str]]:
        """The symbols of code, in the order of the tables."""
        tokens, content = self._tokens, self._content
        position = self._names
        for address in self._addresses:
            start, end = _entry(content, position)
            position = end
            name = b"".join([tokens[code] for code in content[start:end]])
            if name[:1] and name[0] in _CODE_TYPES:
                yield address, name[1:].decode(errors="replace")


def _aligned(position: int) -> int:
    return -(-position // _ALIGNMENT) * _ALIGNMENT


def _tokens_around(content: bytes, digits: int) -> tuple[int, list[bytes], int] | None:
    """The token table whose "0" is at `digits`: where it begins, the tokens, and where their index ends."""
    end_of_first = digits - 1
    for _ in range(ord("0") - 1):
        end_of_first = content.rfind(b"\0", 0, end_of_first)
    nearest = end_of_first & -_ALIGNMENT
    for start in range(nearest, max(-1, nearest - _LONGEST_TOKEN), -_ALIGNMENT):
        tokens = content[start : start + _TOKENS * _LONGEST_TOKEN].split(b"\0", _TOKENS)[:_TOKENS]
        offsets = list(accumulate((len(token) + 1 for token in tokens), initial=0))
        index = _aligned(start + offsets[-1])
        end = index + 2 * _TOKENS
        if offsets[-2] < 1 << 16 and content[index:end] == struct.pack(f"<{len(tokens)}H", *offsets[:-1]):
            return start, tokens, end
    return None


def _names_before_tokens(content: bytes, tokens: int) -> tuple[int, int] | None:
    """Where the names lie, and their count, whose markers end at the token table or a numbering before it."""
    for end in range(tokens, max(0, tokens - _LONGEST_NUMBERING), -_ALIGNMENT):
        for padding in (0, 4):
            markers = _markers_before(content, end - padding)
            found = _names_before(content, markers) if markers else None
            if found is not None:
                return found
    return None


def _markers_before(content: bytes, end: int) -> list[int] | None:
    """The place of the table of markers that ends at `end`, and the markers: they ascend from 0."""
    markers: list[int] = []
    for position in range(end - 4, 0, -4):
        (value,) = struct.unpack_from("<I", content, position)
        if markers and value >= markers[-1]:
            return None
        markers.append(value)
        if value == 0:
            return [position, *markers[::-1]] if len(markers) > 1 else None
    return None


def _names_before(content: bytes, found: list[int]) -> tuple[int, int] | None:
    """Where the names lie that `found` (the place of the markers, then they) points into, and their count."""
    place, *markers = found
    latest = (place - markers[-1]) & -_ALIGNMENT
    earliest = max(_ALIGNMENT, latest - _NAMES_PER_MARKER * _LONGEST_ENTRY)
    for names in range(latest, earliest, -_ALIGNMENT):
        (count,) = struct.unpack_from("<I", content, names - _ALIGNMENT)
        if -(-count // _NAMES_PER_MARKER) == len(markers) and _fits(content, names, count, place, markers):
            return names, count
    return None


def _fits(content: bytes, names: int, count: int, end: int, markers: list[int]) -> bool:
    """Whether `count` names from `names` on are where the markers say, and end where the markers begin."""
    position = names
    for number in range(count):
        if number % _NAMES_PER_MARKER == 0 and position - names != markers[number // _NAMES_PER_MARKER]:
            return False
        position = _entry(content, position)[1]
        if position > end:
            return False
    return _aligned(position) == end


def _entry(content: bytes, position: int) -> tuple[int, int]:
    """First and last (exclusive) byte of the name at `position`, behind its length of one or two bytes."""
    length = content[position]
    position += 1
    if length & 0x80:
        length = length & 0x7F | content[position] << 7
        position += 1
    return position, position + length


def _addresses_before(content: bytes, end: int, count: int) -> list[int] | None:
    """The addresses whose relative base is the last word before `end`."""
    base_at = end - 8
    offsets = base_at - _aligned(4 * count)
    return _addresses(content, offsets, base_at, count) if offsets > 0 else None


def _addresses_at(content: bytes, start: int, count: int) -> list[int] | None:
    """The addresses whose offsets begin at `start`, with the relative base behind them."""
    return _addresses(content, start, start + _aligned(4 * count), count)


def _addresses(content: bytes, offsets: int, base_at: int, count: int) -> list[int] | None:
    """Offset and base to address. None if the base is none: a kernel's, in the upper half.

    With CONFIG_KALLSYMS_ABSOLUTE_PERCPU, negative offsets count down from the base less one, and the others
    are absolute: offsets of the data of each processor.
    """
    if len(content) < base_at + 8:
        return None
    (base,) = struct.unpack_from("<Q", content, base_at)
    if base < 1 << 63 or base % 4096:
        return None
    values = struct.unpack_from(f"<{count}i", content, offsets)
    if any(value < 0 for value in values):
        return [value if value >= 0 else base - 1 - value for value in values]
    return [base + value for value in values]
