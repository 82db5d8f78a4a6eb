"""A command in the guest as an object: `Machine.popen`, like `subprocess.Popen` with pipes."""

from __future__ import annotations

import io
import signal
import threading
from types import TracebackType
from typing import Self

from gasang.guest.guest_command import Command

_MOST_UNREAD = 1 << 20
"""Bytes of a stream that are kept before the guest has to wait."""


class GuestProcess:
    """A command that runs in the guest; leaving a `with` block kills it, if it runs.

    `stdout` and `stderr` are binary files to read, `stdin` one to write; with a terminal everything is in
    `stdout`. What nobody reads stays in the guest, which waits, once a megabyte of it is here.
    """

    def __init__(self, command: Command) -> None:
        self._command = command
        self._output, self._errors = _Output(), _Output()
        self.stdin: io.RawIOBase = _Input(command)
        self.stdout = io.BufferedReader(self._output)
        self.stderr = io.BufferedReader(self._errors)
        threading.Thread(target=self._receive, name="gasang-process", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Its number in the guest, once it has started."""
        return self._command.process

    @property
    def returncode(self) -> int | None:
        """Its exit code, 128 + n after signal n, 127 if it was not found; None while it runs."""
        return self._command.code

    def poll(self) -> int | None:
        """The same."""
        return self._command.code

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended.

        Raises `GuestTimeout` after `timeout` seconds, `MachineDied`, and `GuestAgentError` if the agent ends.
        """
        return self._command.wait(timeout)

    def send_signal(self, number: int) -> None:
        """Send a signal to every process of its session, if it runs."""
        self._command.signal(number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal how large it is now."""
        self._command.resize(rows, columns)

    def close(self) -> None:
        """Forget it: what still runs of its session is killed."""
        self._output.end(None)
        self._errors.end(None)
        self._command.close()

    def _receive(self) -> None:
        failure = None
        try:
            self._command.pass_on(self._output.put, self._errors.put)
        except Exception as error:  # to be raised by whoever reads or waits
            failure = error
        self._output.end(failure)
        self._errors.end(failure)
        self._command.close()


class _Output(io.RawIOBase):
    """What the guest has sent of a stream, for a reader."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._data = bytearray()
        self._ended = False
        self._failure: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        with self._changed:
            self._changed.wait_for(lambda: self._data or self._ended)
            if not self._data and self._failure is not None:
                raise self._failure
            count = min(len(buffer), len(self._data))
            buffer[:count] = self._data[:count]
            del self._data[:count]
            self._changed.notify_all()
            return count

    def put(self, data: bytes) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._data) < _MOST_UNREAD or self._ended)
            if not self._ended:
                self._data += data
                self._changed.notify_all()

    def end(self, failure: Exception | None) -> None:
        with self._changed:
            if not self._ended:
                self._ended, self._failure = True, failure
                self._changed.notify_all()


class _Input(io.RawIOBase):
    """A command's input. To write waits while the guest has no room."""

    def __init__(self, command: Command) -> None:
        self._command = command

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """All of it. Raises `BrokenPipeError` if the command has ended."""
        count = self._command.write(data)
        if count < len(data):
            raise BrokenPipeError("the command in the guest reads no more")
        return count

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._command.end_input()
