"""Ports of the guest's that the host has by the guest's agent: where no network of ours does that."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from gasang.errors import ConfigError, GasangError

if TYPE_CHECKING:
    from gasang.guest.vsock_agent import VsockAgent

_MOST_CONNECTIONS = 256
_PIECE = 64 << 10


class AgentPorts:
    """Listens where it is told, and has the agent connect to 127.0.0.1 in the guest for whoever comes."""

    def __init__(self, agent: VsockAgent) -> None:
        self._agent = agent
        self._listeners: dict[str, socket.socket] = {}
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        self._closed = False

    def expose(self, guest_port: int, address: str) -> str:
        """Take connections at `address` to a port of the guest's; return where. Raises `ConfigError`."""
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, int(port)), family=family)
        except (OSError, ValueError, OverflowError) as error:
            what = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise ConfigError(f"{address} cannot be listened at for port {guest_port}: {what}") from error
        where = f"{address.rpartition(':')[0]}:{listener.getsockname()[1]}"
        with self._lock:
            if self._closed:
                listener.close()
                raise ConfigError("the machine has ended")
            self._listeners[where] = listener
        threading.Thread(
            target=self._take, args=(listener, guest_port), name="gasang-port", daemon=True
        ).start()
        return where

    def unexpose(self, address: str) -> None:
        """Take no more connections there. Raises `ConfigError` if none were taken."""
        with self._lock:
            listener = self._listeners.pop(address, None)
        if listener is None:
            raise ConfigError(f"nothing of the guest is exposed at {address}")
        _end(listener)

    def close(self) -> None:
        """Listen nowhere any more; connections end with the machine."""
        with self._lock:
            self._closed = True
            listeners, self._listeners = list(self._listeners.values()), {}
        for listener in listeners:
            _end(listener)

    def _take(self, listener: socket.socket, guest_port: int) -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                connection, _ = listener.accept()
                if not self._room.acquire(blocking=False):
                    connection.close()
                    continue
                threading.Thread(target=self._join, args=(connection, guest_port), daemon=True).start()

    def _join(self, ours: socket.socket, guest_port: int) -> None:
        """Pass on what either end says, until both have said all."""
        try:
            with ours, self._agent.proxy(guest_port) as theirs:
                back = threading.Thread(target=_pass_on, args=(theirs, ours), daemon=True)
                back.start()
                _pass_on(ours, theirs)
                back.join()
        except GasangError:
            pass  # Nobody listens there: whoever came sees the end.
        finally:
            self._room.release()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    """Up to the end, which is passed on too; whoever takes no more is told no more."""
    with suppress(OSError):
        while data := source.recv(_PIECE):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
    with suppress(OSError):
        source.shutdown(socket.SHUT_RD)


def _end(listener: socket.socket) -> None:
    with suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
    listener.close()
