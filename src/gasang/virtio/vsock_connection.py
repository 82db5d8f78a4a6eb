"""One connection of the socket device: a socket on the host's side, packets and credit on the guest's."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum, auto

from gasang.virtio.vsock_packet import SHUT_RECEIVE, SHUT_SEND, Packet

BUFFER = 256 << 10
"""Bytes that the guest may send before the host has taken any of them."""

_TELL = BUFFER // 4
_BOTH = SHUT_RECEIVE | SHUT_SEND
_WRAP = 1 << 32


class State(Enum):
    """Where a connection is in its life."""

    CONNECTING = auto()
    OPEN = auto()
    GONE = auto()
    """The guest knows it no longer; what it sent is still passed on."""


class Connection:
    """`end` is the device's end of a pair of sockets; whoever uses the connection has the other."""

    def __init__(self, host_port: int, guest_port: int, end: socket.socket, state: State) -> None:
        # static configuration
        self.host_port = host_port
        self.guest_port = guest_port
        # wiring
        self.end = end
        end.setblocking(False)
        self.answered = threading.Event()
        """Set when the guest has answered a request, one way or the other."""
        # volatile state
        self.state = state
        self.accepted = False
        """The guest has accepted a request."""
        self.shut_by_guest = 0
        self.shut_by_host = 0
        self._unsent = bytearray()
        self._received = 0
        self._forwarded = 0
        self._told = 0
        self._sent = 0
        self._guest_buffer = 0
        self._guest_forwarded = 0
        self._output_ended = False

    @property
    def key(self) -> tuple[int, int]:
        """What names it: ports of host and guest."""
        return self.host_port, self.guest_port

    @property
    def credit(self) -> int:
        """How many bytes the guest has room for."""
        on_the_way = (self._sent - self._guest_forwarded) % _WRAP
        return max(0, self._guest_buffer - on_the_way)

    @property
    def sends(self) -> bool:
        """Bytes of the host's may still go to the guest."""
        return self.state is State.OPEN and not self.shut_by_guest & SHUT_RECEIVE and not self.shut_by_host

    @property
    def holds(self) -> bool:
        """Bytes of the guest's wait for the host to take them."""
        return bool(self._unsent)

    @property
    def owes_credit(self) -> bool:
        """The guest should be told that there is room again."""
        return self.state is State.OPEN and self._forwarded - self._told >= _TELL

    @property
    def is_over(self) -> bool:
        """The guest sends no more, takes no more, and all that it sent has been passed on."""
        return not self._unsent and (self.shut_by_guest == _BOTH or self.state is State.GONE)

    def hear(self, packet: Packet) -> None:
        """Note what every packet of the guest's tells of its room."""
        self._guest_buffer = packet.buffer
        self._guest_forwarded = packet.forwarded

    def has_room(self, length: int) -> bool:
        """Whether the guest had credit for so many bytes."""
        return self._received + length - self._forwarded <= BUFFER

    def take(self, data: bytes) -> None:
        """Bytes from the guest, for which there is room."""
        self._received += len(data)
        self._unsent += data
        self.flush()

    def flush(self) -> None:
        """Pass on what the host's side takes now. What it will never take is passed on nowhere."""
        try:
            while self._unsent:
                count = self.end.send(self._unsent)
                del self._unsent[:count]
                self._forwarded += count
        except BlockingIOError:
            return
        except OSError:
            self._forwarded += len(self._unsent)
            self._unsent.clear()
        if self.shut_by_guest & SHUT_SEND and not self._output_ended:
            self._output_ended = True
            with suppress(OSError):
                self.end.shutdown(socket.SHUT_WR)

    def read(self, buffers: Sequence[memoryview]) -> int | None:
        """Fill buffers with what the host has for the guest: how much that was, 0 at the end, None if there
        is nothing now."""
        try:
            count = self.end.recvmsg_into(buffers)[0]
        except BlockingIOError:
            return None
        except OSError:
            return 0
        self._sent += count
        return count

    def room(self) -> tuple[int, int]:
        """Our buffer and how much of what came was taken, as the next packet to the guest says."""
        self._told = self._forwarded
        return BUFFER, self._forwarded % _WRAP

    def shut(self, flags: int) -> None:
        """The guest will send (SHUT_SEND) or take (SHUT_RECEIVE) no more."""
        self.shut_by_guest |= flags & _BOTH
        if flags & SHUT_RECEIVE:
            with suppress(OSError):
                self.end.shutdown(socket.SHUT_RD)
        self.flush()
