"""What host and guest agent say to each other: frames over a stream socket.

The agent's `guests/agent/src/protocol.rs` describes every frame; here are the same numbers and layouts.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from enum import IntEnum

from gasang.errors import GuestAgentError, GuestTimeout

VERSION = 1
PORT = READY_PORT = 1024
MOST_PAYLOAD = 1 << 20
WINDOW = 256 << 10
CHUNK = 32 << 10
KEEP_MODE = 0xFFFFFFFF
TERMINAL, NO_INPUT = 1, 2
FILE, DIRECTORY, LINK = range(3)

_HEAD = struct.Struct("<BI")


class Kind(IntEnum):
    """Types of frames."""

    PING = 0x01
    RUN = 0x02
    READ = 0x03
    WRITE = 0x04
    PUSH = 0x05
    PULL = 0x06
    LIST = 0x07
    PROXY = 0x08
    REPAIR = 0x09

    INPUT = 0x10
    INPUT_END = 0x11
    SIGNAL = 0x12
    RESIZE = 0x13

    STARTED = 0x20
    OUTPUT = 0x21
    ERRORS = 0x22
    EXITED = 0x23
    CANNOT_START = 0x24
    TAKEN = 0x25

    DATA = 0x30
    END = 0x31
    ENTRY = 0x32

    OK = 0x40
    ERROR = 0x41
    PONG = 0x42


class ConnectionEnded(Exception):  # noqa: N818 - the name says what happened
    """The other side is gone; why, whoever made the connection may know."""


class Frames:
    """Frames over a connected socket, which is its own. Any thread may send; one receives."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._sending = threading.Lock()

    def send(self, kind: int, payload: bytes = b"") -> None:
        """Send a frame. Raises `ConnectionEnded`."""
        if len(payload) > MOST_PAYLOAD:
            raise GuestAgentError(f"{len(payload)} bytes are too many for the guest's agent at a time")
        try:
            with self._sending:
                self.socket.sendall(_HEAD.pack(kind, len(payload)) + payload)
        except OSError:
            raise ConnectionEnded from None

    def receive(self, deadline: float | None = None) -> tuple[int, bytes]:
        """The next frame. Raises `GuestTimeout` at the deadline, `ConnectionEnded` at the end, and
        `GuestAgentError` for what is no frame."""
        kind, length = _HEAD.unpack(self._exactly(_HEAD.size, deadline))
        if length > MOST_PAYLOAD:
            raise GuestAgentError("the guest's agent sent what is no frame")
        return kind, self._exactly(length, deadline)

    def close(self) -> None:
        """End the connection."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes a thread that receives
        self.socket.close()

    def _exactly(self, length: int, deadline: float | None) -> bytes:
        data = bytearray()
        while len(data) < length:
            if deadline is not None and not self.is_readable(deadline):
                raise GuestTimeout("the guest's agent did not answer in time")
            try:
                more = self.socket.recv(length - len(data))
            except OSError:
                more = b""
            if not more:
                raise ConnectionEnded
            data += more
        return bytes(data)

    def is_readable(self, deadline: float) -> bool:
        """Wait until something has come, or the end, or the deadline; whether it has."""
        poll = select.poll()
        try:
            poll.register(self.socket, select.POLLIN)
        except ValueError:
            return True  # closed by another thread: to receive will say so
        return bool(poll.poll(max(0, deadline - time.monotonic()) * 1000))


def text(value: str | bytes) -> bytes:
    """A string of a payload. Raises `GuestAgentError` for a NUL, which nothing in the guest can hold."""
    data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
    if b"\0" in data:
        raise GuestAgentError(f"{value!r} contains a NUL character")
    return blob(data)


def blob(data: bytes) -> bytes:
    """Bytes of a payload, with their length."""
    return struct.pack("<I", len(data)) + data


def texts(values: Sequence[str]) -> bytes:
    """A list of strings of a payload."""
    return struct.pack("<I", len(values)) + b"".join(map(text, values))


class Fields:
    """The fields of a payload, one after the other. Raises `GuestAgentError` if there are too few."""

    def __init__(self, payload: bytes) -> None:
        self._rest = payload

    def __bool__(self) -> bool:
        return bool(self._rest)

    def take(self, length: int) -> bytes:
        """So many bytes."""
        if length > len(self._rest):
            raise GuestAgentError("the guest's agent sent half a frame")
        taken, self._rest = self._rest[:length], self._rest[length:]
        return taken

    def number(self, size: int) -> int:
        """An unsigned number of so many bytes."""
        return int.from_bytes(self.take(size), "little")

    def blob(self) -> bytes:
        """Bytes with their length."""
        return self.take(self.number(4))

    def text(self) -> str:
        """A string, as Python has file names."""
        return self.blob().decode("utf-8", "surrogateescape")
