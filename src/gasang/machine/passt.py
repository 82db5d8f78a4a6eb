"""passt as a network device's cable: the host's network as it is, by a program of its own (https://passt.top).

Frames go over a stream socket, each behind its length, as QEMU's `-netdev stream` has them. passt ends with
the connection, whatever becomes of this process.
"""

from __future__ import annotations

import select
import shutil
import socket
import struct
import subprocess

from gasang.config import Network
from gasang.device import Saved
from gasang.errors import ConfigError
from gasang.virtio.net import MTU

_LENGTH = struct.Struct(">I")
_MOST_FRAME = 14 + 4 + MTU
_MOST_UNSENT = 1 << 20
_AT_ONCE = 256 << 10
_PATIENCE = 10.0


class PasstNetwork:
    """A connection to a passt of its own."""

    checks = True

    def __init__(self, network: Network) -> None:
        """Raises `ConfigError` if it is not installed, or does not start."""
        if network.allow or network.resolver:
            raise ConfigError("passt knows no rules, and no other name server: those are for --net user")
        program = shutil.which("passt")
        if program is None:
            raise ConfigError("passt is not installed: install the package passt, or take --net user")
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = _start(program, theirs)
        self._socket.setblocking(False)
        self._epoll = select.epoll()
        self._epoll.register(self._socket, select.EPOLLIN)
        self._received, self._unsent = bytearray(), bytearray()
        self._is_up = True

    @property
    def descriptor(self) -> int:
        """Readable when there are frames, or room for some that waited."""
        return self._epoll.fileno()

    def take(self, frame: bytes) -> bool:
        """A frame of the guest's; whether there is room for another."""
        self._unsent += _LENGTH.pack(len(frame)) + frame
        return self._send()

    def exchange(self) -> bool:
        """Send what waits, receive what came; whether there is room for a frame."""
        room = self._send()
        try:
            while self._is_up and len(self._received) < _AT_ONCE:
                data = self._socket.recv(_AT_ONCE)
                self._received += data
                self._is_up = bool(data)
        except BlockingIOError:
            pass
        except OSError:
            self._is_up = False
        if not self._is_up:  # The guest's network is silent from now on.
            self._epoll.modify(self._socket, 0)
            self._unsent.clear()
        return room

    def give(self) -> bytes | None:
        """The next frame for the guest, if it is here whole."""
        if len(self._received) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._received)
        if length > _MOST_FRAME:
            self._is_up = False
            self._received.clear()
            return None
        end = _LENGTH.size + length
        if len(self._received) < end:
            return None
        frame = bytes(self._received[_LENGTH.size : end])
        del self._received[:end]
        return frame

    def set_mac(self, mac: bytes) -> None:
        """It learns addresses from frames."""

    def state(self) -> Saved:
        """Nothing: connections end with the one that passt had."""
        return {"connections": []}

    def set_state(self, state: Saved) -> None:
        """Another passt knows of no connection."""

    def close(self) -> None:
        """End passt with the connection."""
        self._epoll.close()
        self._socket.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self) -> bool:
        try:
            while self._unsent and self._is_up:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._is_up = False
        wanted = select.EPOLLIN | (select.EPOLLOUT if self._unsent else 0)
        self._epoll.modify(self._socket, wanted if self._is_up else 0)
        return len(self._unsent) < _MOST_UNSENT


def _start(program: str, connection: socket.socket) -> subprocess.Popen[bytes]:
    words = ("--foreground", "--quiet", "--mtu", str(MTU), "--fd", str(connection.fileno()))
    try:
        return subprocess.Popen(
            (program, *words),
            pass_fds=(connection.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise ConfigError(f"passt does not start: {error.strerror}") from error
