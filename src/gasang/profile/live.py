"""Running machines of this user, seen from other processes: a socket for each, in a directory of the user's.

Whoever connects sends lines and gets a line of JSON for each: a `Reading`. From the first line to the end of
the last connection the machine is profiled; otherwise it only waits here, at no cost.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from gasang.errors import ConfigError

if TYPE_CHECKING:
    from gasang.profile.measured import Profile

_SUFFIX = ".socket"
_PATIENCE_SECONDS = 5
_SYMBOLS = 200
"""How many of the symbols travel: those with the most samples."""


class Reading(NamedTuple):
    """A machine at one time. Everything counts up: times (nanoseconds), samples by symbol, statistics."""

    pid: int
    name: str
    processors: int
    memory: int
    phases: Mapping[str, int]
    symbols: Mapping[str, int]
    counters: Mapping[str, int]


class Source(Protocol):
    """A machine, as far as it is of use here."""

    def profile(self) -> Profile: ...
    def start_profile(self) -> None: ...
    def stop_profile(self) -> None: ...


def directory() -> Path:
    """Where the sockets are: in the user's runtime directory (XDG base directories), else in /tmp."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(base) / "gasang" if os.path.isabs(base) else Path(f"/tmp/gasang-{os.getuid()}")


def make_directory() -> Path:
    """The directory, for nobody but us. Raises `ConfigError` if it is somebody else's or cannot be made."""
    place = directory()
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        found = place.lstat()
    except OSError as error:
        raise ConfigError(f"{place} cannot be made: {error.strerror or error}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError(f"{place} is not a directory of ours alone")
    return place


class Publisher:
    """Answers those who look at a machine, from `start` to `close`."""

    def __init__(self, machine: Source, name: str, processors: int, memory: int, *, profiled: bool) -> None:
        """`profiled`: the machine is profiled anyway, and stays so.

        Raises `ConfigError` if there is no place for the socket.
        """
        self._machine = machine
        self._about = (os.getpid(), name, processors, memory)
        self._always = profiled
        self._watchers = 0
        self._lock = threading.Lock()
        place = make_directory()
        _remove_left_over(place)
        self._path = place / f"{os.getpid()}{_SUFFIX}"
        self._path.unlink(missing_ok=True)  # of a process that had our number
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(str(self._path))
            self._path.chmod(0o600)
            self._listener.listen()
        except OSError as error:
            self._listener.close()
            raise ConfigError(f"{self._path} cannot be made: {error.strerror or error}") from error

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="gasang-publisher", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave no socket behind; who is connected gets no more answers."""
        self._path.unlink(missing_ok=True)
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rw") as stream:
            self._watch(1)
            try:
                for _ in stream:
                    stream.write(json.dumps(self._read()._asdict()) + "\n")
                    stream.flush()
            except (OSError, ConfigError):
                pass  # the watcher is gone, or the machine is not profiled any more
            finally:
                self._watch(-1)

    def _watch(self, more: int) -> None:
        with self._lock:
            before, self._watchers = self._watchers, self._watchers + more
            if not self._always and (before == 0) != (self._watchers == 0):
                with suppress(ConfigError):
                    self._machine.start_profile() if self._watchers else self._machine.stop_profile()

    def _read(self) -> Reading:
        found = self._machine.profile()
        return Reading(
            *self._about,
            phases={each.name: round(each.seconds * 1e9) for each in found.phases},
            symbols={each.name: each.samples for each in found.symbols[:_SYMBOLS]},
            counters=found.counters,
        )


def _remove_left_over(place: Path) -> None:
    """Remove the sockets of processes that were killed."""
    for path in place.glob(f"*{_SUFFIX}"):
        with suppress(OSError, ValueError):
            try:
                os.kill(int(path.name.removesuffix(_SUFFIX)), 0)
            except ProcessLookupError:
                path.unlink(missing_ok=True)


class Watched:
    """A machine of another process, connected to."""

    def __init__(self, path: Path) -> None:
        """Raises OSError if nobody answers there."""
        self.pid = int(path.name.removesuffix(_SUFFIX))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_PATIENCE_SECONDS)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._stream = self._socket.makefile("rw")

    def read(self) -> Reading | None:
        """The machine now; None if it has ended."""
        try:
            self._stream.write("\n")
            self._stream.flush()
            line = self._stream.readline()
            return Reading(**json.loads(line)) if line else None
        except (OSError, ValueError, TypeError):
            return None

    def close(self) -> None:
        """Look at it no longer."""
        with suppress(OSError):
            self._stream.close()
        self._socket.close()


def running(connect: Callable[[Path], Watched] = Watched) -> list[Watched]:
    """Every running machine of this user, by process number. What killed ones left behind is removed."""
    found = []
    for path in sorted(directory().glob(f"*{_SUFFIX}")):
        try:
            found.append(connect(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except (OSError, ValueError):
            continue
    return sorted(found, key=lambda each: each.pid)
