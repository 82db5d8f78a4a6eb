"""The socket device (Virtio 1.2, 5.10): stream sockets between host and guest.

On the host's side a connection is one end of a pair of sockets; the device has the other. No more is kept of
what the guest sends than it was given credit for, no more packets are owed to it than there is room for: then
its own wait in the queue. All is done by the device's thread, under one lock; users of it only ask.
"""

from __future__ import annotations

import os
import queue as queues
import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from gasang.device import Saved
from gasang.virtio.buffers import content, fill, part
from gasang.virtio.queue import Chain, Queue, QueueError
from gasang.virtio.vsock_connection import BUFFER, Connection, State
from gasang.virtio.vsock_packet import (
    HEADER_SIZE,
    HOST_CID,
    SHUT_RECEIVE,
    SHUT_SEND,
    STREAM,
    Operation,
    Packet,
)

GUEST_CID = 3
MOST_CONNECTIONS = 1024

_MOST_OWED = 1024
"""Packets owed to the guest; while there are so many, none is taken from it."""

_AT_ONCE = 64
"""Packets taken from the guest before it is its turn to be given some."""

_BACKLOG = 128
_FIRST_PORT = 1 << 20
_PORTS = 1 << 30
_TRANSPORT_RESET = struct.pack("<I", 0)
_RX, _TX, _EVENT = range(3)
_BOTH = SHUT_RECEIVE | SHUT_SEND


class Listener:
    """Connections that the guest makes to a port of the host's."""

    def __init__(self, port: int, close: Callable[[], None]) -> None:
        self.port = port
        self._waiting: queues.Queue[socket.socket | None] = queues.Queue(_BACKLOG + 1)
        self._close = close

    def offer(self, connection: socket.socket) -> bool:
        """Hand a connection in; False if too many wait."""
        if self._waiting.qsize() >= _BACKLOG:
            return False
        self._waiting.put_nowait(connection)
        return True

    def end(self) -> None:
        """There will be no more: who waits is told."""
        self._waiting.put_nowait(None)

    def accept(self, timeout: float | None = None) -> socket.socket:
        """The next connection. Raises `TimeoutError`, and `ConnectionAbortedError` if there will be none."""
        try:
            found = self._waiting.get(timeout=timeout)
        except queues.Empty:
            raise TimeoutError(f"the guest did not connect to port {self.port}") from None
        if found is None:
            raise ConnectionAbortedError("the socket device is gone")
        return found

    def close(self) -> None:
        """Refuse connections from now on; those that wait are closed."""
        self._close()
        while not self._waiting.empty():
            waiting = self._waiting.get_nowait()
            if waiting is not None:
                waiting.close()


class VsockDevice:
    """A socket device for the guest with the address `cid`."""

    device_id = 19
    pci_class = 0x078000
    features = 1 << 0  # stream sockets
    queues = 3

    def __init__(self, cid: int = GUEST_CID) -> None:
        # static configuration
        self._cid = cid
        # wiring
        self._lock = threading.RLock()
        self._events = select.epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._events.register(self._bell, select.EPOLLIN)
        self._closed = False
        # volatile state
        self._listeners: dict[int, Listener] = {}
        self._next_port = 0
        self._begin()

    def _begin(self) -> None:
        self._connections: dict[tuple[int, int], Connection] = {}
        self._sockets: dict[int, Connection] = {}
        self._hung: set[int] = set()
        self._ready: dict[int, Connection] = {}
        self._room_again: dict[tuple[int, int], Connection] = {}
        self._owed: deque[Packet] = deque()
        self._reset_owed = False
        self._reset_told: int | None = None

    @property
    def descriptor(self) -> int:
        """Readable when `poll` has something to do."""
        return self._events.fileno()

    def config(self) -> bytes:
        """struct virtio_vsock_config (5.10.4)."""
        return struct.pack("<Q", self._cid)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Nothing there can be written."""

    def connect(self, changed: Callable[[], None]) -> None:
        """Its configuration never changes."""

    def negotiated(self, features: int) -> None:
        """A driver begins: what there was before it is gone."""
        with self._lock:
            self._forget()

    def serve(self, queue: Queue, index: int) -> None:
        """`poll` does all."""

    def state(self) -> Saved:
        """Connections do not outlive a machine; what the guest has of them keeps their ports for a while."""
        with self._lock:
            return {"next_port": self._next_port}

    def set_state(self, state: Saved) -> None:
        """The guest is told that its connections are gone."""
        self.reset_transport()
        self._next_port = int(state["next_port"]) % _PORTS

    def close(self) -> None:
        """End every connection, and whoever waits for one."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._forget()
            for listener in self._listeners.values():
                listener.end()
            self._listeners.clear()
            self._events.close()
            os.close(self._bell)

    # For the host.

    def dial(self, port: int, timeout: float | None = None) -> socket.socket:
        """A connection to a port of the guest's.

        Raises `ConnectionRefusedError` if nobody listens there, `TimeoutError`, and `OSError` if there are
        too many connections or the machine has ended.
        """
        ours, theirs = socket.socketpair()
        with ExitStack() as unless_accepted:
            unless_accepted.callback(theirs.close)
            self._await_answer(self._request(port, ours), timeout)
            unless_accepted.pop_all()
        return theirs

    def listen(self, port: int) -> Listener:
        """Take connections of the guest's to a port of the host's. Raises `OSError` if somebody does."""
        with self._lock:
            if self._closed or port in self._listeners:
                raise OSError(f"port {port} of the host cannot be listened at")
            listener = Listener(port, lambda: self._unlisten(port))
            self._listeners[port] = listener
            return listener

    def reset_transport(self) -> None:
        """Every connection is broken, and the driver is told so: its guest was restored from a snapshot."""
        with self._lock:
            self._forget()
            self._reset_owed = True
        self._wake()

    # By the device's thread.

    def poll(self, queues: Sequence[Queue]) -> bool:
        """Do some of what there is to do; whether anything was done. Raises `QueueError`."""
        with self._lock:
            if self._closed:
                return False
            did = self._take_events()
            if self._is_being_reset(queues[_EVENT]):
                return self._reset_owed and self._tell_reset(queues[_EVENT])
            if queues[_TX].enabled:
                did |= self._take_packets(queues[_TX])
            if queues[_RX].enabled:
                did |= self._give_packets(queues[_RX])
            return did

    def _await_answer(self, connection: Connection, timeout: float | None) -> None:
        port = connection.guest_port
        if not connection.answered.wait(timeout):
            self._abandon(connection)
            raise TimeoutError(f"the guest did not answer at port {port} within {timeout:g} seconds")
        if not connection.accepted:
            raise ConnectionRefusedError(f"nobody listens at port {port} of the guest")

    def _unlisten(self, port: int) -> None:
        with self._lock:
            self._listeners.pop(port, None)

    def _wake(self) -> None:
        with self._lock:
            if not self._closed:
                os.eventfd_write(self._bell, 1)

    def _request(self, port: int, end: socket.socket) -> Connection:
        with self._lock:
            if self._closed or self._is_full():
                end.close()
                raise OSError(
                    "the machine has ended" if self._closed else "too many connections to the guest"
                )
            connection = Connection(self._free_port(port), port, end, State.CONNECTING)
            self._add(connection)
            self._owe(connection, Operation.REQUEST)
            self._wake()
            return connection

    def _is_full(self) -> bool:
        """Whether there are as many connections as may be, when those are gone that only wait for the
        guest's last word."""
        if len(self._connections) >= MOST_CONNECTIONS:
            for connection in [each for each in self._connections.values() if each.end.fileno() < 0]:
                self._lose(connection)
        return max(len(self._sockets), len(self._connections)) >= MOST_CONNECTIONS

    def _abandon(self, connection: Connection) -> None:
        with self._lock:
            if connection.state is State.CONNECTING:
                self._owed = deque(each for each in self._owed if each.source_port != connection.host_port)
                self._owe(connection, Operation.RST)
                self._lose(connection)

    def _free_port(self, guest_port: int) -> int:
        while True:
            self._next_port = (self._next_port + 1) % _PORTS
            port = _FIRST_PORT + self._next_port
            if (port, guest_port) not in self._connections and port not in self._listeners:
                return port

    def _add(self, connection: Connection) -> None:
        self._connections[connection.key] = connection
        self._sockets[connection.end.fileno()] = connection
        self._events.register(connection.end.fileno(), select.EPOLLONESHOT)

    def _forget(self) -> None:
        for connection in [*self._sockets.values(), *self._connections.values()]:
            connection.state = State.GONE
            connection.answered.set()
            connection.end.close()
        self._begin()

    def _drop(self, connection: Connection) -> None:
        """Nothing more passes to or from the host's side."""
        number = connection.end.fileno()
        if number >= 0:
            self._events.unregister(number)
            del self._sockets[number]
            self._ready.pop(number, None)
            self._hung.discard(number)
            connection.end.close()
        connection.answered.set()

    def _lose(self, connection: Connection) -> None:
        """The guest knows it no longer; what it sent before is still passed on."""
        connection.state = State.GONE
        connection.answered.set()
        if self._connections.get(connection.key) is connection:
            del self._connections[connection.key]
        self._settle(connection)

    def _settle(self, connection: Connection) -> None:
        """After any change: drop it if it is over, else wait for what it waits for."""
        connection.flush()
        if connection.owes_credit:
            self._room_again[connection.key] = connection
        number = connection.end.fileno()
        if number < 0:
            return
        if connection.is_over:
            if connection.state is State.OPEN:
                self._owe(connection, Operation.RST)
                self._connections.pop(connection.key, None)
                connection.state = State.GONE
            self._drop(connection)
        elif number not in self._hung:
            wanted = select.EPOLLONESHOT
            if connection.sends and number not in self._ready:
                wanted |= select.EPOLLIN
            if connection.holds:
                wanted |= select.EPOLLOUT
            self._events.modify(number, wanted)

    def _take_events(self) -> bool:
        did = False
        for number, what in self._events.poll(0):
            did = True
            if number == self._bell:
                os.eventfd_read(self._bell)
                continue
            connection = self._sockets[number]
            if what & (select.EPOLLHUP | select.EPOLLERR):
                self._hung.add(number)
            if what & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                self._ready[number] = connection
            self._settle(connection)
        return did

    # From the guest.

    def _take_packets(self, queue: Queue) -> bool:
        did = False
        for _ in range(_AT_ONCE):
            if len(self._owed) >= _MOST_OWED or (chain := queue.pop()) is None:
                break
            did = True
            self._take(chain)
            queue.push(chain, 0)
        return did

    def _take(self, chain: Chain) -> None:
        header = content(chain.readable, 0, HEADER_SIZE)
        if len(header) < HEADER_SIZE:
            raise QueueError("a packet with half a header")
        packet = Packet.parse(header)
        if packet.source_cid != self._cid:
            return
        if packet.destination_cid != HOST_CID or packet.kind != STREAM:
            self._refuse(packet)
            return
        connection = self._connections.get((packet.destination_port, packet.source_port))
        if connection is None:
            self._begin_with(packet)
            return
        connection.hear(packet)
        match packet.operation:
            case Operation.RESPONSE if connection.state is State.CONNECTING:
                connection.state = State.OPEN
                connection.accepted = True
                connection.answered.set()
            case Operation.RST:
                self._lose(connection)
            case Operation.SHUTDOWN if connection.state is State.OPEN:
                self._shut(connection, packet.flags)
            case Operation.RW if connection.state is State.OPEN:
                self._take_data(connection, packet, chain)
            case Operation.CREDIT_UPDATE:
                pass
            case Operation.CREDIT_REQUEST if connection.state is State.OPEN:
                self._owe(connection, Operation.CREDIT_UPDATE)
            case _:
                self._break(connection, packet)
        self._settle(connection)

    def _begin_with(self, packet: Packet) -> None:
        """A packet of no connection: a request, or a mistake."""
        listener = self._listeners.get(packet.destination_port)
        if packet.operation != Operation.REQUEST or listener is None or self._is_full():
            self._refuse(packet)
            return
        ours, theirs = socket.socketpair()
        connection = Connection(packet.destination_port, packet.source_port, ours, State.OPEN)
        connection.hear(packet)
        if not listener.offer(theirs):
            ours.close()
            theirs.close()
            self._refuse(packet)
            return
        self._add(connection)
        self._owe(connection, Operation.RESPONSE)
        self._settle(connection)

    def _take_data(self, connection: Connection, packet: Packet, chain: Chain) -> None:
        if packet.length > BUFFER or not connection.has_room(packet.length):
            self._break(connection, packet)  # It had no credit for that.
            return
        data = content(chain.readable, HEADER_SIZE, packet.length)
        if len(data) < packet.length:
            raise QueueError(f"a packet of {packet.length} bytes in a buffer of {len(data)}")
        connection.take(data)

    def _shut(self, connection: Connection, flags: int) -> None:
        connection.shut(flags)
        if connection.end.fileno() < 0 and connection.shut_by_guest == _BOTH:
            self._owe(connection, Operation.RST)
            self._lose(connection)

    def _break(self, connection: Connection, packet: Packet) -> None:
        """The guest broke a rule of a connection: it is gone."""
        self._refuse(packet)
        self._lose(connection)

    def _refuse(self, packet: Packet) -> None:
        if packet.operation != Operation.RST:
            self._owed.append(packet.refusal())

    # To the guest.

    def _owe(self, connection: Connection, operation: Operation, flags: int = 0) -> None:
        self._owed.append(self._packet(connection, operation, flags=flags))

    def _packet(
        self, connection: Connection, operation: Operation, *, length: int = 0, flags: int = 0
    ) -> Packet:
        return Packet(
            HOST_CID,
            self._cid,
            connection.host_port,
            connection.guest_port,
            length,
            STREAM,
            operation,
            flags,
            *connection.room(),
        )

    def _give_packets(self, queue: Queue) -> bool:
        did = False
        for _ in range(_AT_ONCE):
            chain = queue.pop()
            if chain is None:
                break
            written = self._give(chain)
            if written is None:
                queue.put_back()
                break
            queue.push(chain, written)
            did = True
        return did

    def _give(self, chain: Chain) -> int | None:
        """Fill a buffer of the guest's with the next packet: how many bytes; None if there is none."""
        if chain.room <= HEADER_SIZE:
            raise QueueError("a buffer without room for a packet")
        while self._room_again and not self._owed:
            _, connection = self._room_again.popitem()
            if connection.owes_credit:
                self._owe(connection, Operation.CREDIT_UPDATE)
        if self._owed:
            return self._give_owed(chain)
        for number, connection in list(self._ready.items()):
            if connection.sends and not connection.credit:
                continue
            del self._ready[number]
            written = self._give_data(connection, number, chain)
            if written is not None:
                return written
        return None

    def _give_data(self, connection: Connection, number: int, chain: Chain) -> int | None:
        if not connection.sends:
            self._after_host(connection, number)
            return self._give_owed(chain)
        count = connection.read(part(chain.writable, HEADER_SIZE, connection.credit))
        if count:
            self._ready[number] = connection  # behind the others
            header = self._packet(connection, Operation.RW, length=count)
            fill(chain.writable, header.pack())
            return HEADER_SIZE + count
        if count is None:
            self._settle(connection)
            return None
        self._after_host(connection, number)
        return self._give_owed(chain)

    def _give_owed(self, chain: Chain) -> int | None:
        if not self._owed:
            return None
        fill(chain.writable, self._owed.popleft().pack())
        return HEADER_SIZE

    def _after_host(self, connection: Connection, number: int) -> None:
        """The host's side has sent all that it ever will; if it is hung up, it takes nothing either."""
        hung = number in self._hung
        flags = _BOTH if hung else SHUT_SEND
        if connection.state is State.CONNECTING and hung:
            self._owe(connection, Operation.RST)
            self._lose(connection)
            self._drop(connection)
            return
        if connection.state is State.OPEN and flags & ~connection.shut_by_host:
            connection.shut_by_host |= flags
            self._owe(connection, Operation.SHUTDOWN, flags)
        if hung:
            connection.flush()
            self._drop(connection)
        else:
            self._settle(connection)

    def _is_being_reset(self, events: Queue) -> bool:
        """The guest has yet to break its connections. It has when it adds the event's buffer again: one that
        was made before that would be broken with the others."""
        if not events.enabled:
            return False
        if self._reset_told is not None and events.want_next_notification() != self._reset_told:
            self._reset_told = None
        return self._reset_owed or self._reset_told is not None

    def _tell_reset(self, queue: Queue) -> bool:
        chain = queue.pop()
        if chain is None:
            return False
        fill(chain.writable, _TRANSPORT_RESET)
        self._reset_told = queue.added
        queue.push(chain, len(_TRANSPORT_RESET))
        self._reset_owed = False
        return True
