"""The process that holds a machine in the background: `gasang run -d`."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from gasang.backends.streams import writer
from gasang.cli.background import CONTROL, LOCK, LOG, MOST_ANSWER, About, check_name, clean, lock, remove
from gasang.cli.report import OUR_ERROR, Terminated
from gasang.errors import ConfigError, GasangError
from gasang.machine import Machine
from gasang.machine.saved import check_clonable
from gasang.profile.live import make_directory

_READY = b"ready"
_CONSOLE_TAIL = 4096
_BOOT_SECONDS = 600.0


def start(make: Callable[[], Machine], name: str) -> int:
    """Leave a process behind that makes a machine and holds it, once its guest is up; 0.

    Raises `GasangError` if there is no such machine then.
    """
    place = make_directory()
    clean(place)
    held = lock(place / f"{check_name(name)}{LOCK}")
    if held is None:
        raise ConfigError(f"a machine called {name} runs already: gasang stop {name} stops it")
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        _hold(make, name, place, writing)
    os.close(writing)
    os.close(held)
    try:
        with os.fdopen(reading, "rb") as told:
            word = told.read()
    except BaseException:
        os.kill(process, signal.SIGTERM)
        raise
    if word != _READY:
        os.waitpid(process, 0)
        raise GasangError(
            word.decode(errors="replace") or "the machine's holder ended before its guest was up"
        )
    return 0


def _hold(make: Callable[[], Machine], name: str, place: Path, told: int) -> None:
    """What the holder does, to its end."""
    code = OUR_ERROR
    try:
        os.setsid()
        _leave_streams(place / f"{name}{LOG}")
        with make() as machine:
            machine.vsock_agent.wait_ready(_BOOT_SECONDS)
            holder = Holder(machine, name, place)
            os.write(told, _READY)
            os.close(told)
            told = -1
            code = holder.serve()
    except Terminated as error:
        code = 128 + error.number
    except BaseException as error:  # to be told by whoever started us
        if told >= 0:
            with suppress(OSError):
                os.write(told, " ".join(str(error).split()).encode(errors="replace") or b"no reason given")
    finally:
        remove(place, name)
        os._exit(code)  # the lock goes with us


def _leave_streams(log: Path) -> None:
    """Nothing of ours holds the terminal or the pipes of whoever started us."""
    sys.stdout.flush()
    nothing = os.open(os.devnull, os.O_RDWR)
    complaints = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    for number, target in ((nothing, 0), (nothing, 1), (complaints, 2)):
        os.dup2(number, target)
    os.close(nothing)
    os.close(complaints)


class Holder:
    """Answers at a machine's socket, until the machine ends."""

    def __init__(self, machine: Machine, name: str, place: Path) -> None:
        self._machine = machine
        self._about = About(
            name,
            os.getpid(),
            time.time(),
            machine.config.memory,
            machine.config.cpus,
            machine.accelerator.name,
        )
        self._console = _Console(machine)
        self._path = place / f"{name}{CONTROL}"
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            self._listener.bind(str(self._path))
        finally:
            os.umask(before)
        self._listener.listen()

    def serve(self) -> int:
        """Until the machine ends; its exit code."""
        threading.Thread(target=self._accept, name="gasang-holder", daemon=True).start()
        return self._machine.wait().exit_code

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):  # whoever asked is gone
            connection.settimeout(10)
            descriptors: list[socket.socket] = []
            try:
                answer = self._answer(_request(connection), descriptors.append)
            except (OSError, GasangError, ValueError) as error:
                answer = {"error": " ".join(str(error).split())}
            line = json.dumps(answer).encode() + b"\n"
            try:
                socket.send_fds(connection, [line], [each.fileno() for each in descriptors])
            finally:
                for each in descriptors:
                    each.close()

    def _answer(self, request: dict[str, object], give: Callable[[socket.socket], None]) -> dict[str, object]:
        match request.get("do"):
            case "about":
                return asdict(self._about)
            case "agent":
                give(self._machine.vsock_agent.connect())
            case "console":
                give(self._console.attach())
            case "snapshot":
                if request.get("clones"):
                    check_clonable(self._machine.config)
                self._machine.snapshot(str(request.get("path", "")))
            case "stop":
                self._machine.stop()
            case _:
                raise ValueError("an unknown request")
        return {}


def _request(connection: socket.socket) -> dict[str, object]:
    """What is asked for. Raises `ValueError` for what is no request."""
    line = b""
    while not line.endswith(b"\n"):
        more = connection.recv(MOST_ANSWER)
        if not more or len(line) > MOST_ANSWER:
            raise ValueError("no request")
        line += more
    found = json.loads(line)
    return found if isinstance(found, dict) else {}


class _Console:
    """The guest's console, for as many as want to see it. Who does not keep up misses some of it."""

    def __init__(self, machine: Machine) -> None:
        self._console = machine.console
        self._lock = threading.Lock()
        self._viewers: list[socket.socket] = []
        self._console.listen(self._show)

    def attach(self) -> socket.socket:
        """A socket with the end of what was shown, and then all that comes; what is sent there is typed."""
        ours, theirs = socket.socketpair()
        with self._lock:
            _send_what_fits(ours, self._console.log[-_CONSOLE_TAIL:])
            self._viewers.append(ours)
        threading.Thread(target=self._type, args=(ours,), daemon=True).start()
        return theirs

    def _show(self, data: bytes) -> None:
        with self._lock:
            for each in self._viewers:
                _send_what_fits(each, data)

    def _type(self, viewer: socket.socket) -> None:
        with suppress(OSError, GasangError):
            while data := viewer.recv(4096):
                self._console.write(data)
        with self._lock:
            self._viewers.remove(viewer)
        viewer.close()


def _send_what_fits(viewer: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        viewer.send(data, socket.MSG_DONTWAIT)


def say_name(name: str) -> None:
    """The only word of `gasang run -d` on stdout."""
    writer(1)(f"{name}\n".encode())
