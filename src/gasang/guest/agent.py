"""The host's half of the guest agent: run a command in the guest, as `subprocess` would here.

The guest's half is `agent.sh`; the head of that file describes the lines that pass between the two. Each
command has a marker of its own, random: when it has ended, both of its streams end in the marker, so output
may be any bytes and is complete when the marker is there.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from subprocess import CompletedProcess

from gasang.device import Saved
from gasang.errors import GasangError, GuestAgentError, GuestTimeout, SnapshotError
from gasang.guest.command import Command
from gasang.guest.quoting import quote, script
from gasang.guest.streams import Sink, Source

CONTROL, OUTPUT, ERRORS = 1, 2, 3
"""Serial ports by index (0 is the console). OUTPUT takes standard input inwards; ERRORS takes what must
happen while a command runs."""

CHUNK = 32 * 1024
"""Most bytes of standard input on their way at a time; the guest asks for each chunk."""

KILL_GRACE = 5.0
"""Seconds that a killed command gets to end, and then whatever still holds its output."""


class Agent:
    """The agent of one guest.

    `send(port, data)` queues bytes for a serial port, without waiting. Whoever drives the machine calls
    `receive` with what the guest wrote, from any thread, and `close` when the machine has ended. One command
    runs at a time; a second caller waits for its turn.

    With a `seed`, what the guest sees does not depend on when: markers come from the seed, input in full
    chunks. `until_answered` then is for the thread that runs the guest.
    """

    def __init__(self, send: Callable[[int, bytes], object], seed: int | None = None) -> None:
        self._send = send
        self._seed = seed
        self._commands = 0
        self._dismissed = False
        self._turn = threading.Lock()
        self._changed = threading.Condition()
        self._line = b""
        self._ready = False
        self._ended: Exception | None = None
        self._command: Command | None = None
        self._shell: int | None = None

    @property
    def ready(self) -> bool:
        """The guest's half has reported."""
        return self._ready

    @property
    def shell(self) -> int | None:
        """The exit code of the shell on the console, once it has ended."""
        return self._shell

    def receive(self, port: int, data: bytes) -> None:
        """Take bytes that the guest wrote to serial port CONTROL, OUTPUT or ERRORS; others are ignored."""
        with self._changed:
            if port == CONTROL:
                *lines, self._line = (self._line + data).split(b"\n")
                for line in lines:
                    self._obey(line.decode("ascii", "replace").split())
            elif self._command and port == OUTPUT:
                self._command.output.feed(data)
            elif self._command and port == ERRORS:
                self._command.errors.feed(data)
            self._changed.notify_all()

    def state(self) -> Saved:
        """What the guest's half has said, between two commands. Raises `SnapshotError` during one."""
        with self._changed:
            if self._command is not None:
                raise SnapshotError(
                    "a command is being run by the agent on serial ports: wait for its end, or use vsock"
                )
            line = self._line.decode("latin-1")
            return {"ready": self._ready, "shell": self._shell, "line": line, "commands": self._commands}

    def set_state(self, state: Saved) -> None:
        """Go on with a guest's half that has said that."""
        with self._changed:
            self._ready, self._shell = bool(state["ready"]), state["shell"]
            self._line = state["line"].encode("latin-1")
            self._commands = int(state["commands"])
            self._changed.notify_all()

    def close(self, error: Exception) -> None:
        """The machine has ended: every call that waits, and every later one, raises `error`."""
        with self._changed:
            self._ended = error
            self._changed.notify_all()

    def until_answered(self) -> None:
        """Wait while the guest's half waits for us: for the next command, or for a command's input."""
        with self._changed:
            self._changed.wait_for(lambda: not self._awaited())

    def dismiss(self) -> None:
        """Commands will come when they come, if any: `until_answered` does not wait for them any more."""
        with self._changed:
            self._dismissed = True
            self._changed.notify_all()

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until the guest's half has reported.

        Raises `GuestTimeout` after `timeout` seconds, and what `close` was given if the machine ends.
        """
        with self._changed:
            if not self._wait(lambda: self._ready, _deadline(timeout)):
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
    ) -> CompletedProcess[bytes]:
        """Run a command to its end; a string is for `sh -c`.

        Like `subprocess.run` with captured output, the call lasts until the command has ended and whatever
        it started has closed its output. `timeout` is in seconds of the host. `env` is added to the guest's.
        The return code is the command's, 128 + n after signal n, 127 if it was not found.

        Raises `GuestTimeout` with the output so far, after killing the command; `GuestAgentError` for a
        command that cannot be sent; what `close` was given if the machine ends.
        """
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
    ) -> int:
        """Run a command as `run` does, but pass its output on as it comes; return its exit code.

        The timeout counts from the call, so it includes the guest's boot.

        The sinks are called by the calling thread; `stdin.read` by a thread of its own, which outlives the
        call if `read` waits.
        """
        code = quote(script(command, env, cwd))
        deadline = _deadline(timeout)
        with self._turn:
            self.wait_ready(timeout)
            running = Command(self._marker(), stdout, stderr, has_input=stdin is not None)
            with self._current(running):
                words = ["run", running.marker, code] + (["input"] if stdin else [])
                self._send(CONTROL, " ".join(words).encode("ascii") + b"\n")
                with self._changed:
                    running.sent = True
                    self._changed.notify_all()
                if stdin:
                    threading.Thread(target=self._feed, args=(running, stdin), daemon=True).start()
                in_time = self._pass_on(running, deadline)
                if not in_time:
                    self._kill(running)
                    _deliver(running)
                    raise GuestTimeout(f"command {command!r} did not end within {timeout:g} seconds")
                assert running.code is not None, "complete without a code"
                return running.code

    def signal(self, number: int) -> None:
        """Send a signal to the running command and what it started in its session; if none runs, nothing."""
        with self._changed:
            if self._command and self._command.processes:
                self._send(ERRORS, b"kill -%d -%d\n" % (number, self._command.processes[0]))

    @contextmanager
    def _current(self, command: Command) -> Iterator[None]:
        with self._changed:
            self._command = command
        try:
            yield
        except BaseException:
            self._kill(command)
            raise
        finally:
            with self._changed:
                self._command = None

    def _pass_on(self, command: Command, deadline: float | None) -> bool:
        """Give output to the sinks as it comes, until the command is complete; False at the deadline."""
        while True:
            with self._changed:
                in_time = self._wait(lambda: command.complete or command.has_output, deadline)
                complete = command.complete
            _deliver(command)
            if complete or not in_time:
                return complete

    def _kill(self, command: Command) -> None:
        """End a command and whatever holds its output; leave the agent able to take the next one."""
        with self._changed:
            if command.complete or self._ended is not None:
                return
            self._end_input(command)
            if not self._wait(lambda: bool(command.processes), _deadline(KILL_GRACE)):
                self._give_up()
                return
            process, *copiers = command.processes
            victims = b" ".join(b"%d" % copier for copier in copiers)
            self._send(ERRORS, b"kill -KILL -%d\n" % process)
            if self._wait(lambda: command.complete, _deadline(KILL_GRACE)):
                return
            # A process that left the session still holds the pipes: stop copying, and make new pipes.
            pipes = b"/etc/gasang/stdout /etc/gasang/stderr"
            self._send(ERRORS, b"rm %b; mkfifo %b; kill -KILL %b\n" % (pipes, pipes, victims))
            if not self._wait(lambda: command.complete, _deadline(KILL_GRACE)):
                self._give_up()

    def _give_up(self) -> None:
        self._ended = GuestAgentError("the guest's agent no longer answers: stop this machine")

    def _feed(self, command: Command, source: Source) -> None:
        """Answer each request for standard input, until there is none or the command has ended."""
        try:
            while data := self._chunk(source):
                with self._changed:
                    self._wait(lambda: command.wants_input or command.input_over, None)
                    if command.input_over:
                        return
                    command.wants_input = False
                    self._send(OUTPUT, b"%d\n" % len(data) + data)
                    self._changed.notify_all()
        except (OSError, ValueError, GasangError):
            pass  # A source that broke has ended; of a machine that ended, the caller of `stream` is told.
        with self._changed:
            self._end_input(command)

    def _chunk(self, source: Source) -> bytes:
        data = source.read(CHUNK)
        while self._seed is not None and data and len(data) < CHUNK:
            more = source.read(CHUNK - len(data))
            if not more:
                break
            data += more
        return data

    def _marker(self) -> str:
        self._commands += 1
        if self._seed is None:
            return secrets.token_hex(16)
        return hashlib.sha256(b"%d %d" % (self._seed, self._commands)).hexdigest()[:32]

    def _awaited(self) -> bool:
        """Whether the guest's half waits for us, the lock being held."""
        if self._dismissed or self._ended is not None or not self._ready:
            return False
        command = self._command
        return command is None or not command.sent or command.complete or command.wants_input

    def _end_input(self, command: Command) -> None:
        """Answer the present or the next request for input with an empty chunk, which is the last."""
        command.input_over = True
        if command.wants_input and self._ended is None:
            command.wants_input = False
            command.input_ended = True
            self._send(OUTPUT, b"0\n")
            self._changed.notify_all()

    def _obey(self, words: list[str]) -> None:
        match words:
            case ["ready"]:
                self._ready = True
            case ["shell", code] if code.isdecimal():
                self._shell = int(code)
            case [word, *numbers] if self._command and all(number.isdecimal() for number in numbers):
                self._command.obey(word, [int(number) for number in numbers])
                if self._command.input_over:
                    self._end_input(self._command)

    def _wait(self, condition: Callable[[], bool], deadline: float | None) -> bool:
        """Wait, the lock held, until `condition`; False at the deadline.

        Raises what ended the machine.
        """
        left = None if deadline is None else deadline - time.monotonic()
        self._changed.wait_for(lambda: condition() or self._ended is not None, left)
        if condition():
            return True
        if self._ended is not None:
            raise self._ended
        return False


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _deliver(command: Command) -> None:
    for sink, data in command.take_output():
        sink(data)
