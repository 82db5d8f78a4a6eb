"""Guest addresses by name."""

from __future__ import annotations

import io
import struct
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile

from gasang.errors import ConfigError
from gasang.profile import kallsyms

_FUNCTION_TYPES = {0, 2, 10}
"""STT_NOTYPE (assembly's), STT_FUNC, STT_GNU_IFUNC."""

_LAST_SIZE = 64 << 10
"""How far the last of some symbols without sizes may reach."""

_DAMAGE = (ELFError, ConstructError, struct.error, AttributeError, LookupError, TypeError, ValueError)
"""What is raised over contradictory headers."""


@dataclass(frozen=True, slots=True, order=True)
class Symbol:
    """A name for the addresses from `start` to `end` (exclusive)."""

    start: int
    end: int
    name: str


class Symbols:
    """Symbols of a guest, to be looked up by address."""

    def __init__(self, symbols: Iterable[Symbol] = ()) -> None:
        self._symbols = sorted(symbols)
        self._starts = [symbol.start for symbol in self._symbols]

    def find(self, address: int) -> Symbol | None:
        """The symbol that `address` is in: of several, the one that starts last."""
        at = bisect_right(self._starts, address) - 1
        if at < 0 or address >= self._symbols[at].end:
            return None
        return self._symbols[at]

    def name(self, address: int) -> str:
        """`address` for people: "symbol+0x1f", or as a number."""
        symbol = self.find(address)
        if symbol is None:
            return f"{address:#x}"
        offset = address - symbol.start
        return f"{symbol.name}+{offset:#x}" if offset else symbol.name

    def __add__(self, other: Symbols) -> Symbols:
        return Symbols([*self._symbols, *other._symbols])

    def __len__(self) -> int:
        return len(self._symbols)


def kernel_symbols(image: bytes | memoryview) -> Symbols:
    """What a Linux kernel's uncompressed image knows of itself; nothing if it is no such image."""
    found = kallsyms.read(image)
    pairs = pairwise([*found, (found[-1][0] + _LAST_SIZE, "")]) if found else ()
    return Symbols(Symbol(start, end, name) for (start, name), (end, _) in pairs if end > start)


def elf_symbols(content: bytes, source: str, base: int = 0) -> Symbols:
    """The functions in the symbol table of an ELF file that lies `base` above where it was linked.

    `source` names it in errors. Raises `ConfigError` if it is no ELF file.
    """
    try:
        return Symbols(_sized(sorted(_of_elf(content, base))))
    except _DAMAGE as error:
        raise ConfigError(f"{source} has no symbols that can be read: {error}") from error


def _of_elf(content: bytes, base: int) -> list[tuple[int, int, str]]:
    """Functions as (address, size, name); what lies in no section that holds code is left out."""
    elf = ELFFile(io.BytesIO(content))
    table = elf.get_section_by_name(".symtab") or elf.get_section_by_name(".dynsym")
    if table is None:
        return []
    code = {number for number, section in enumerate(elf.iter_sections()) if section["sh_flags"] & 4}
    names = elf.get_section(table["sh_link"]).data()
    found = []
    # The fields by their order in the two classes of files (ELF, figure 4-16; the psABI's figure 5.3).
    if elf.elfclass == 64:
        entries = ((n, i, s, v, z) for n, i, _, s, v, z in struct.iter_unpack("<IBBHQQ", table.data()))
    else:
        entries = ((n, i, s, v, z) for n, v, z, i, _, s in struct.iter_unpack("<IIIBBH", table.data()))
    for name_at, kind, section, value, size in entries:
        if kind & 15 in _FUNCTION_TYPES and section in code:
            name = names[name_at : names.index(b"\0", name_at)].decode(errors="replace")
            if name:
                found.append((base + value, size, name))
    return found


def _sized(found: list[tuple[int, int, str]]) -> list[Symbol]:
    """Symbols that have no size reach to the next one."""
    symbols = []
    for number, (start, size, name) in enumerate(found):
        later = (other for other, _, _ in found[number + 1 : number + 1 + 64] if other > start)
        end = start + size if size else next(later, start + _LAST_SIZE)
        symbols.append(Symbol(start, end, name))
    return symbols
