"""The client of the guest agent behind vsock: many commands at a time, terminals, files, repair.

The guest's half is `guests/agent`. Each request is a connection of its own, so that none waits for another.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import BytesIO
from pathlib import Path
from signal import SIGKILL
from typing import TYPE_CHECKING, NamedTuple, Protocol

from gasang.errors import GasangError, GuestAgentError, GuestFileError, GuestTimeout
from gasang.guest import tree
from gasang.guest.guest_command import Command, Request
from gasang.guest.guest_process import GuestProcess
from gasang.guest.protocol import (
    CHUNK,
    KEEP_MODE,
    PORT,
    READY_PORT,
    VERSION,
    ConnectionEnded,
    Fields,
    Frames,
    Kind,
    blob,
    text,
)
from gasang.guest.streams import Sink, Source

if TYPE_CHECKING:
    from subprocess import CompletedProcess

KILL_GRACE = 5.0
"""Seconds that a killed command gets to end."""

_ANSWER = 30.0
"""Seconds for the agent to accept a connection."""

_DEATH_GRACE = 1.0
"""Seconds in which a machine that takes its connections along is known to have ended."""

_RANDOM_BYTES = 64

__all__ = ["READY_PORT", "Running", "VsockAgent"]


class Greetings(Protocol):
    """Connections of the guest's to where it says that its agent is up."""

    def accept(self, timeout: float | None = None) -> socket.socket: ...


class Running(NamedTuple):
    """A command that the agent runs: its process and its words."""

    process: int
    words: tuple[str, ...]


class VsockAgent:
    """The agent of one guest. Every method may be called from any thread.

    `dial(port, timeout)` connects to a port of the guest's, `greetings` tell that the agent is up; without
    them it is. Whoever drives the machine calls `close` when it
    has ended.
    """

    def __init__(
        self, dial: Callable[[int, float | None], socket.socket], greetings: Greetings | None = None
    ) -> None:
        self._dial = dial
        self._changed = threading.Condition()
        self._ready = greetings is None
        self._ended: Exception | None = None
        self._kept: Frames | None = None
        if greetings is not None:
            threading.Thread(target=self._await, args=(greetings,), name="gasang-agent", daemon=True).start()

    @property
    def ready(self) -> bool:
        """The guest's half has reported."""
        return self._ready

    def close(self, error: Exception) -> None:
        """The machine has ended: every call that waits, and every later one, raises `error`."""
        with self._changed:
            self._ended = error
            self._changed.notify_all()
        self._keep(None)

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until the guest's half has reported.

        Raises `GuestTimeout` after `timeout` seconds, and what `close` was given if the machine ends.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._ended is not None, timeout)
            if self._ended is not None:
                raise self._ended
            if not self._ready:
                raise GuestTimeout(
                    f"the guest's agent did not report within {timeout:g} seconds: "
                    "does this guest run gasang's initial RAM disk?"
                )

    def run(
        self,
        command: str | Sequence[str],
        *,
        timeout: float | None = None,
        input: bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        started: Callable[[Command], object] | None = None,
    ) -> CompletedProcess[bytes]:
        """Run a command to its end; a string is for `sh -c`. As `Agent.run`, and as another `user`; `started`
        is told of the command, which another thread may close."""
        from subprocess import CompletedProcess  # noqa: PLC0415 - slow to load, and not always needed

        output, errors = bytearray(), bytearray()
        try:
            code = self.stream(
                command,
                stdin=None if input is None else BytesIO(input),
                stdout=output.extend,
                stderr=errors.extend,
                timeout=timeout,
                env=env,
                cwd=cwd,
                user=user,
                started=started,
            )
        except GuestTimeout as error:
            raise GuestTimeout(str(error), stdout=bytes(output), stderr=bytes(errors)) from None
        return CompletedProcess(command, code, bytes(output), bytes(errors))

    def stream(
        self,
        command: str | Sequence[str],
        *,
        stdin: Source | None,
        stdout: Sink,
        stderr: Sink,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        started: Callable[[Command], object] | None = None,
    ) -> int:
        """Run a command as `run` does, but pass its output on as it comes; return its exit code.

        The sinks are called by the calling thread; `stdin.read` by a thread of its own, which outlives the
        call if `read` waits.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        request = Request(command=command, env=env, cwd=cwd, user=user, has_input=stdin is not None)
        running = Command(self._connect(deadline), request, self._explain)
        if started is not None:
            started(running)
        try:
            if stdin is not None:
                threading.Thread(target=_feed, args=(running, stdin), daemon=True).start()
            try:
                running.pass_on(stdout, stderr, deadline)
            except GuestTimeout:
                with suppress(GasangError):
                    running.signal(SIGKILL)
                    running.pass_on(stdout, stderr, time.monotonic() + KILL_GRACE)
                raise GuestTimeout(f"command {command!r} did not end within {timeout:g} seconds") from None
        finally:
            running.close()
        assert running.code is not None, "complete without a code"
        return running.code

    def popen(
        self,
        command: str | Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        terminal: tuple[int, int] | None = None,
        timeout: float | None = None,
    ) -> GuestProcess:
        """Start a command; `terminal` is (rows, columns). `timeout` is for the guest to be up."""
        request = Request(command=command, env=env, cwd=cwd, user=user, terminal=terminal)
        deadline = None if timeout is None else time.monotonic() + timeout
        return GuestProcess(Command(self._connect(deadline), request, self._explain))

    def read(self, path: str) -> bytes:
        """A file's content. Raises `GuestFileError`."""
        with self._request(Kind.READ, text(path)) as frames:
            return b"".join(_data(frames, path))

    def write(self, path: str, data: bytes, mode: int | None = None) -> None:
        """Replace a file's content at once; it keeps its mode, or has 0644, if none is given. Raises
        `GuestFileError`."""
        payload = struct.pack("<I", KEEP_MODE if mode is None else mode) + text(path)
        with self._request(Kind.WRITE, payload) as frames:
            with suppress(ConnectionEnded):  # then the answer is there
                for start in range(0, len(data), CHUNK):
                    frames.send(Kind.DATA, bytes(data[start : start + CHUNK]))
                frames.send(Kind.END)
            _expect_ok(frames, path)

    def copy_in(self, host: str | Path, guest: str) -> None:
        """Copy a file or a tree into the guest; into `guest` if that is a directory, else as `guest`.

        Raises `GuestFileError`, and `OSError` for what cannot be read here.
        """
        source = Path(host)
        source.lstat()
        name = source.resolve().name
        with self._request(Kind.PUSH, text(guest) + text(name)) as frames:
            with suppress(ConnectionEnded):
                tree.send(frames, source.resolve())
                frames.send(Kind.END)
            _expect_ok(frames, guest)

    def copy_out(self, guest: str, host: str | Path) -> None:
        """Copy a file or a tree out of the guest; into `host` if that is a directory, else as `host`.

        Nothing is written elsewhere, whatever the guest sends. Raises `GuestFileError`, and `OSError` for
        what cannot be written here.
        """
        place = Path(host)
        if place.is_dir():
            name = guest.rstrip("/").rpartition("/")[2]
            place /= name if name not in ("", ".", "..") else "root"
        with self._request(Kind.PULL, text(guest)) as frames, tree.Receiver(place) as receiver:
            for kind, payload in _answers(frames, guest, {Kind.ENTRY, Kind.DATA}):
                receiver.take(kind, payload)

    def processes(self) -> list[Running]:
        """The commands that the agent runs now."""
        found = []
        with self._request(Kind.LIST) as frames:
            for payload in _data(frames, "the list of commands"):
                fields = Fields(payload)
                process, count = fields.number(4), fields.number(4)
                found.append(Running(process, tuple(fields.text() for _ in range(count))))
        return found

    def proxy(self, port: int) -> socket.socket:
        """A connection to 127.0.0.1:`port` in the guest. Raises `GuestFileError` if nobody listens there."""
        with self._request(Kind.PROXY, struct.pack("<H", port), stays=True) as frames:
            _expect_ok(frames, f"port {port}")
        return frames.socket

    def repair(
        self,
        *,
        time_ns: int | None = None,
        hostname: str = "",
        machine_id: str = "",
        mac: bytes = b"",
    ) -> None:
        """Mend what a guest has that comes from a snapshot: its clock (`time_ns` or now), its random numbers,
        and what else is given. Raises `GuestAgentError`."""
        now = time.time_ns() if time_ns is None else time_ns
        random = os.urandom(_RANDOM_BYTES)
        payload = struct.pack("<Q", now) + blob(random) + text(hostname) + text(machine_id) + blob(mac)
        try:
            with self._request(Kind.REPAIR, payload, stays=True) as frames:
                _expect_ok(frames, "repair")
        except GuestFileError as error:
            raise GuestAgentError(f"the guest cannot be repaired: {error.text}") from None
        self._keep(frames)  # A guest was mended for something: it is ready for that.

    def connect(self) -> socket.socket:
        """A connection to the agent, for a request of somebody else's."""
        return self._connect(None).socket

    def ping(self) -> str:
        """The name and version of the guest's half."""
        with self._request(Kind.PING) as frames:
            kind, payload = frames.receive()
            return _greeting(kind, payload)

    @contextmanager
    def _request(self, kind: Kind, payload: bytes = b"", *, stays: bool = False) -> Iterator[Frames]:
        """A request, and a connection for its answer, closed behind it unless it `stays` and all is well."""
        frames = self._connect(None)
        with ExitStack() as unless_it_stays:
            unless_it_stays.callback(frames.close)
            try:
                frames.send(kind, payload)
                yield frames
            except ConnectionEnded:
                raise self._explain() from None
            if stays:
                unless_it_stays.pop_all()

    def _keep(self, frames: Frames | None) -> None:
        """Keep a connection for the next request, in the place of the one that was kept."""
        with self._changed:
            kept, self._kept = self._kept, frames
        if kept is not None:
            kept.close()

    def _take_kept(self) -> Frames | None:
        """The connection that was kept, if it still is one."""
        with self._changed:
            kept, self._kept = self._kept, None
        # The agent says nothing unasked: what can be read is the end.
        if kept is not None and kept.is_readable(time.monotonic()):
            kept.close()
            return None
        return kept

    def _connect(self, deadline: float | None) -> Frames:
        self.wait_ready(None if deadline is None else max(0.0, deadline - time.monotonic()))
        if (kept := self._take_kept()) is not None:
            return kept
        left = _ANSWER if deadline is None else max(0.0, min(_ANSWER, deadline - time.monotonic()))
        try:
            return Frames(self._dial(PORT, left))
        except TimeoutError:
            raise GuestTimeout(f"the guest's agent did not answer within {left:g} seconds") from None
        except OSError as error:
            raise self._explain(str(error)) from None

    def _explain(self, why: str = "it ended, or closed the connection") -> Exception:
        """What to raise for a connection that has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended is not None, _DEATH_GRACE)
            if self._ended is not None:
                return self._ended
        return GuestAgentError(f"the guest's agent does not answer: {why}")

    def _await(self, greetings: Greetings) -> None:
        """Until there will be no more: note that the agent is up."""
        while True:
            try:
                frames = Frames(greetings.accept())
            except ConnectionAbortedError:
                return
            try:
                _greeting(*frames.receive(time.monotonic() + _ANSWER))
            except (GasangError, ConnectionEnded):
                continue
            finally:
                frames.close()
            with self._changed:
                self._ready = True
                self._changed.notify_all()


def _greeting(kind: int, payload: bytes) -> str:
    """What the agent calls itself. Raises `GuestAgentError` if it speaks otherwise."""
    fields = Fields(payload)
    if kind != Kind.PONG or fields.number(4) != VERSION:
        raise GuestAgentError("the guest's agent is of another version: make the initial RAM disk anew")
    return fields.text()


def _feed(command: Command, source: Source) -> None:
    """Send a source's content as input. One that broke has ended."""
    with suppress(GasangError):
        try:
            while data := source.read(CHUNK):
                if command.write(data) < len(data):
                    return
        except (OSError, ValueError):
            pass
        command.end_input()


def _answers(frames: Frames, path: str, wanted: set[Kind]) -> Iterator[tuple[int, bytes]]:
    """Frames up to the end. Raises `GuestFileError` for what the guest says of `path`."""
    while True:
        kind, payload = frames.receive()
        if kind == Kind.END:
            return
        if kind == Kind.ERROR:
            fields = Fields(payload)
            raise GuestFileError(path, fields.number(4), fields.text())
        if kind not in wanted:
            raise GuestAgentError("the guest's agent sent what does not belong here")
        yield kind, payload


def _data(frames: Frames, path: str) -> Iterator[bytes]:
    return (payload for _, payload in _answers(frames, path, {Kind.DATA}))


def _expect_ok(frames: Frames, path: str) -> None:
    kind, _ = next(_answers(frames, path, {Kind.OK}), (Kind.END, b""))
    if kind != Kind.OK:
        raise GuestAgentError("the guest's agent sent what does not belong here")
