"""The file by which Linux's perf names code that a program made while it ran (tools/perf, jit-interface.txt).

One line for a piece of code: host address and size in hexadecimal, a name.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from gasang.errors import ConfigError
from gasang.profile.symbols import Symbols

CodeRecord = tuple[int, int, int, int, int]
"""A translated block: (host address, bytes, guest address, guest instructions, CPL)."""

_begun: set[Path] = set()
"""The files that machines of this process write; what was there before belongs to a process that is gone."""


class PerfMap:
    """Writes the map of this process, to which several machines may add."""

    def __init__(self, symbols: Symbols, path: Path | None = None) -> None:
        """`path` is where perf looks, unless given. Raises `ConfigError` if the file cannot be made."""
        self.path = path or Path(f"/tmp/perf-{os.getpid()}.map")
        self._symbols = symbols
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            if self.path not in _begun:
                self.path.unlink(missing_ok=True)
                flags |= os.O_EXCL
            self._file = os.open(self.path, flags, 0o600)
        except OSError as error:
            raise ConfigError(f"the perf map {self.path} cannot be written: {error.strerror}") from error
        _begun.add(self.path)

    def add(self, records: Iterable[CodeRecord]) -> None:
        """Name the code of some blocks. Where code has been thrown away, later lines hold."""
        lines = [
            f"{host:x} {size:x} {self._symbols.name(guest)} [T1 CPL{cpl}]\n"
            for host, size, guest, _, cpl in records
        ]
        os.write(self._file, "".join(lines).encode())

    def close(self) -> None:
        """Write no more; the file stays, for perf to read."""
        os.close(self._file)
