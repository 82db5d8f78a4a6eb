"""A peer's process and the serial console on its standard input and output."""

from __future__ import annotations

import os
import re
import select
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from figures import BenchmarkError

_TAIL = 2000


class Console:
    """A running peer; leaving the `with` block kills it."""

    def __init__(self, command: Sequence[str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the peer is
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0
        )
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    @property
    def process(self) -> int:
        """The process's id."""
        return self._process.pid

    def processor_seconds(self) -> float:
        """Time so far of all its threads on a processor: the first field of proc_pid_schedstat."""
        threads = Path(f"/proc/{self.process}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) * 1e-9

    def send(self, line: str) -> None:
        """Type a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    def expect(self, pattern: str, timeout: float) -> re.Match[bytes]:
        """Read until `pattern` appears; what came up to its end is used up.

        Raises `BenchmarkError` after `timeout` seconds, or if the peer ends first.
        """
        deadline = time.monotonic() + timeout
        compiled = re.compile(pattern.encode())
        while (found := compiled.search(self._unread)) is None:
            self._unread += self._read(pattern, deadline)
        self._unread = self._unread[found.end() :]
        return found

    def _read(self, pattern: str, deadline: float) -> bytes:
        assert self._process.stdout is not None
        remaining = max(0.0, deadline - time.monotonic())
        if not select.select([self._process.stdout], [], [], remaining)[0]:
            raise BenchmarkError(f"no {pattern!r} on the console in time; {self._last_words()}")
        data = os.read(self._process.stdout.fileno(), 1 << 16)
        if not data:
            raise BenchmarkError(f"the peer ended before {pattern!r}; {self._last_words()}")
        return data

    def _last_words(self) -> str:
        self._errors.seek(0)
        said = self._errors.read() + b"\n" + self._unread
        return f"{self._process.args!r} said last:\n{said[-_TAIL:].decode(errors='replace')}"
