"""Machines in the background: where their holders are found, and what these are asked.

A holder is the process of one machine. It has NAME.lock locked as long as it lives, and answers at the socket
NAME.control, both in a directory of the user's alone. Whoever connects sends one line of JSON, {"do": WHAT},
and gets one line back. With "agent" and "console" a descriptor comes along: a connection to the guest's
agent, or to its console.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gasang.errors import ConfigError, GuestAgentError, MachineDied
from gasang.guest.vsock_agent import VsockAgent
from gasang.profile.live import directory

LOCK, CONTROL, LOG = ".lock", ".control", ".log"
MOST_ANSWER = 1 << 16
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)
_PATIENCE = 30.0


@dataclass(frozen=True)
class About:
    """A machine in the background."""

    name: str
    pid: int
    started: float
    """Seconds since 1970."""
    memory: int
    cpus: int
    accelerator: str


def check_name(name: str) -> str:
    """The name, if a machine can have it. Raises `ConfigError`."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name for a machine: use letters, digits, '.', '_' and '-', at most 64"
        )
    return name


def lock(path: Path) -> int | None:
    """A descriptor with the lock of a holder's, as long as it is open; None if somebody has it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass  # whoever had it has just removed it
        os.close(descriptor)


def remove(place: Path, name: str) -> None:
    """Remove what a holder has in the directory; the lock last, which the caller has."""
    for suffix in (CONTROL, LOG, LOCK):
        (place / f"{name}{suffix}").unlink(missing_ok=True)


def clean(place: Path) -> None:
    """Remove what holders that were killed have left behind."""
    for path in place.glob(f"*{LOCK}"):
        with suppress(OSError):
            held = lock(path)
            if held is not None:
                remove(place, path.name.removesuffix(LOCK))
                os.close(held)


def names() -> list[str]:
    """The machines in the background."""
    place = directory()
    clean(place)
    return sorted(path.name.removesuffix(CONTROL) for path in place.glob(f"*{CONTROL}"))


def ask(
    name: str, what: str, patience: float = _PATIENCE, **more: str
) -> tuple[dict[str, object], int | None]:
    """What a machine's holder answers, and the descriptor that comes along.

    Raises `ConfigError` if there is no such machine, `MachineDied` if it ends meanwhile, `GuestAgentError`
    for what the holder cannot do.
    """
    path = directory() / f"{check_name(name)}{CONTROL}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(patience)
        try:
            connection.connect(str(path))
        except OSError:
            clean(directory())
            raise ConfigError(f"no machine is called {name}: gasang ps lists those that run") from None
        try:
            connection.sendall(json.dumps({"do": what, **more}).encode() + b"\n")
            answer, descriptors = _receive(connection)
        except OSError as error:
            raise GuestAgentError(f"the machine {name} does not answer: {error}") from None
    if not answer:
        raise MachineDied("its holder is gone")
    found: dict[str, object] = json.loads(answer)
    if "error" in found:
        raise GuestAgentError(f"machine {name}: {found['error']}")
    return found, descriptors[0] if descriptors else None


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """A line, and the descriptors that come with its beginning."""
    answer, descriptors, _, _ = socket.recv_fds(connection, MOST_ANSWER, 1)
    while answer and not answer.endswith(b"\n"):
        more = connection.recv(MOST_ANSWER)
        if not more:
            break
        answer += more
    return answer, list(descriptors)


def about(name: str) -> About:
    """What there is to say of a machine. Raises as `ask` does."""
    found, _ = ask(name, "about")
    return About(**found)  # type: ignore[arg-type]


def connect(name: str, what: str) -> socket.socket:
    """A connection to the "agent" or the "console" of a machine. Raises as `ask` does."""
    _, descriptor = ask(name, what)
    if descriptor is None:
        raise GuestAgentError(f"the machine {name} gave no connection")
    return socket.socket(fileno=descriptor)


def agent_of(name: str) -> VsockAgent:
    """The client of a machine's agent. Raises as `ask` does."""
    about(name)
    return VsockAgent(lambda _port, _timeout: connect(name, "agent"))
