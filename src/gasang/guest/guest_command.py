"""One command in the guest, by the agent behind vsock: its connection, from its start to its last byte."""

from __future__ import annotations

import errno
import re
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from gasang.errors import GuestAgentError, GuestTimeout
from gasang.guest.protocol import (
    CHUNK,
    NO_INPUT,
    TERMINAL,
    WINDOW,
    ConnectionEnded,
    Fields,
    Frames,
    Kind,
    text,
    texts,
)
from gasang.guest.streams import Sink

NOT_EXECUTABLE, NOT_FOUND, SIGNALLED = 126, 127, 128

_NAME = re.compile(r"[^=\0]+")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be run, and how; a string is for `sh -c`."""

    command: str | Sequence[str]
    env: Mapping[str, str] | None = None
    cwd: str | None = None
    user: str | None = None
    terminal: tuple[int, int] | None = None
    """Rows and columns of a terminal that is its three streams; None gives it pipes."""
    has_input: bool = True

    @property
    def words(self) -> list[str]:
        """The program and its arguments. Raises `GuestAgentError` if there is none."""
        words = ["sh", "-c", self.command] if isinstance(self.command, str) else list(self.command)
        if not words or not words[0]:
            raise GuestAgentError("the command is empty: give a program's name, or a string for sh -c")
        return words

    def pack(self) -> bytes:
        """The payload of its frame. Raises `GuestAgentError` for what cannot be sent."""
        flags = (TERMINAL if self.terminal else 0) | (0 if self.has_input else NO_INPUT)
        for name in self.env or ():
            if not _NAME.fullmatch(name):
                raise GuestAgentError(f"environment variable {name!r} is not a name that a program can have")
        pairs = [f"{name}={value}" for name, value in (self.env or {}).items()]
        return (
            struct.pack("<BHH", flags, *(self.terminal or (0, 0)))
            + text(self.user or "")
            + text(self.cwd or "")
            + texts(self.words)
            + texts(pairs)
        )


class Command:
    """A command that was asked for over a connection, which is its own.

    One thread calls `pass_on` until the command is complete; others may send input and signals meanwhile.
    """

    def __init__(self, frames: Frames, request: Request, explain: Callable[[], Exception]) -> None:
        """`explain` makes the error that is raised when the connection has ended too soon."""
        self._frames = frames
        self._explain = explain
        self._name = request.words[0]
        self._changed = threading.Condition()
        self._window = WINDOW
        self._input_over = not request.has_input
        self._failure: Exception | None = None
        self._stopped = False
        self.process: int | None = None
        """Its number in the guest, once it has started."""
        self.code: int | None = None
        """Its exit code, or 128 + n after signal n, once it has ended."""
        self.complete = False
        """It has ended, and all of its output has been passed on."""
        payload = request.pack()
        with suppress(ConnectionEnded):  # whoever receives will see
            frames.send(Kind.RUN, payload)

    def pass_on(self, stdout: Sink, stderr: Sink, deadline: float | None = None) -> None:
        """Pass output on until the command is complete.

        Raises `GuestTimeout` at the deadline, and what ended the connection.
        """
        try:
            while not self.complete:
                kind, payload = self._frames.receive(deadline)
                if kind == Kind.OUTPUT:
                    stdout(payload)
                elif kind == Kind.ERRORS:
                    stderr(payload)
                elif kind == Kind.CANNOT_START:
                    stderr(self._cannot_start(Fields(payload)))
                else:
                    with self._changed:
                        self._note(kind, Fields(payload))
                        self._changed.notify_all()
        except GuestTimeout:
            raise
        except ConnectionEnded:
            raise self._fail(self._explain()) from None
        except Exception as error:
            self._fail(error)
            raise

    def write(self, data: bytes | memoryview) -> int:
        """Send input, and wait until the guest has room for it; how much the command may still take of it: if
        that is less, it has ended. Raises what ended the connection."""
        view = memoryview(data).cast("B")
        sent = 0
        while sent < len(view):
            with self._changed:
                self._changed.wait_for(lambda: self._window > 0 or self._input_closed())
                if self._failure is not None:
                    raise self._failure
                if self._input_closed():
                    return sent
                count = min(self._window, CHUNK, len(view) - sent)
                self._window -= count
            if not self._tell(Kind.INPUT, bytes(view[sent : sent + count])):
                return sent
            sent += count
        return sent

    def end_input(self) -> None:
        """The command finds the end of its input."""
        with self._changed:
            if self._input_closed():
                return
            self._input_over = True
            self._changed.notify_all()
        self._tell(Kind.INPUT_END)

    def signal(self, number: int) -> None:
        """Send a signal to every process of the command's session, if it runs."""
        if self.code is None:
            self._tell(Kind.SIGNAL, struct.pack("<I", number))

    def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal how large it is."""
        if self.code is None:
            self._tell(Kind.RESIZE, struct.pack("<HH", rows, columns))

    def wait(self, timeout: float | None) -> int:
        """Its exit code, once it has ended. Raises `GuestTimeout`, and what ended the connection."""
        with self._changed:
            done = self._changed.wait_for(lambda: self.code is not None or self._failure is not None, timeout)
            if self.code is not None:
                return self.code
            if self._failure is not None:
                raise self._failure
            assert not done, "there is nothing else to wait for"
            raise GuestTimeout(f"command {self._name!r} did not end within {timeout:g} seconds")

    def close(self) -> None:
        """End the connection; the guest kills what still runs of the command's session."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._frames.close()

    def _tell(self, kind: Kind, payload: bytes = b"") -> bool:
        """Send a frame; False if nobody takes it, of which whoever receives is told."""
        try:
            self._frames.send(kind, payload)
        except ConnectionEnded:
            return False
        return True

    def _fail(self, error: Exception) -> Exception:
        with self._changed:
            self._failure = error
            self._changed.notify_all()
        return error

    def _input_closed(self) -> bool:
        return self._input_over or self._stopped or self.code is not None or self._failure is not None

    def _note(self, kind: int, fields: Fields) -> None:
        match kind:
            case Kind.STARTED:
                self.process = fields.number(4)
            case Kind.TAKEN:
                self._window += fields.number(4)
            case Kind.EXITED:
                signalled, number = fields.number(1), fields.number(4)
                self.code = SIGNALLED + number if signalled else number
            case Kind.END if self.code is not None:
                self.complete = True
            case _:
                raise GuestAgentError("the guest's agent sent what does not belong here")

    def _cannot_start(self, fields: Fields) -> bytes:
        """Note that there is no command; what a shell would say of it."""
        number, why = fields.number(4), fields.text()
        with self._changed:
            self.code = NOT_FOUND if number == errno.ENOENT else NOT_EXECUTABLE
            self.complete = True
            self._changed.notify_all()
        return f"gasang: {self._name}: {why}\n".encode("utf-8", "surrogateescape")
