"""The console device (Virtio 1.2, 5.3) with several ports: a console, and named ports for programs."""

from __future__ import annotations

import os
import struct
import threading
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import IntEnum, IntFlag

from gasang.device import Saved
from gasang.virtio.buffers import content, fill
from gasang.virtio.queue import Queue, QueueError

_CONTROL_RX, _CONTROL_TX = 2, 3
_MESSAGE = struct.Struct("<IHH")
_MOST_PENDING = 64 << 10
"""Bytes for a port that wait for the guest to take them."""

_PIECE = 64 << 10
_MOST_MESSAGES = 256
"""For a guest that asks and does not listen."""

CONSOLE = 0
"""The port that is one."""


class Feature(IntFlag):
    """Feature bits (5.3.3)."""

    SIZE = 1 << 0
    MULTIPORT = 1 << 1
    EMERG_WRITE = 1 << 2


class Event(IntEnum):
    """Messages of the control queues (5.3.6.2)."""

    DEVICE_READY = 0
    PORT_ADD = 1
    PORT_REMOVE = 2
    PORT_READY = 3
    CONSOLE_PORT = 4
    RESIZE = 5
    PORT_OPEN = 6
    PORT_NAME = 7


class ConsoleDevice:
    """Port 0 is a console; the others have `names`. `deliver` is called with a port and what the guest sends.

    `offer` may be called from any thread.
    """

    device_id = 3
    pci_class = 0x078000
    features = int(Feature.MULTIPORT | Feature.EMERG_WRITE)

    def __init__(self, names: Sequence[str], deliver: Callable[[int, bytes], None]) -> None:
        # static configuration
        self._names = tuple(names)
        self._count = 1 + len(names)
        self.queues = 2 * (1 + self._count)
        # wiring
        self._deliver = deliver
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        # volatile state
        self._chosen = Feature(0)
        self._open: set[int] = set()
        self._messages: deque[bytes] = deque()
        self._pending = [bytearray() for _ in range(self._count)]

    @property
    def descriptor(self) -> int:
        """Readable once something was offered."""
        return self._event

    def offer(self, port: int, data: bytes) -> int:
        """Bytes for a port; how many there is room for."""
        with self._lock:
            pending = self._pending[port]
            count = max(0, min(len(data), _MOST_PENDING - len(pending)))
            pending += data[:count]
        if count:
            os.eventfd_write(self._event, 1)
        return count

    def config(self) -> bytes:
        """struct virtio_console_config (5.3.4): no size is known."""
        return struct.pack("<HHII", 0, 0, self._count, 0)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """A byte that the guest must get rid of before it has queues (5.3.5.1)."""
        if offset == 8:
            self._deliver(CONSOLE, bytes([value & 0xFF]))

    def connect(self, changed: Callable[[], None]) -> None:
        """It never changes."""

    def negotiated(self, features: int) -> None:
        """A driver begins: it knows of no port yet."""
        self._chosen = Feature(features & self.features)
        self._open.clear()
        self._messages.clear()

    def serve(self, queue: Queue, index: int) -> None:
        """It is polled."""

    def poll(self, queues: Sequence[Queue]) -> bool:
        """Bytes and messages, both ways. Raises `QueueError`."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._event)
        did = False
        if queues[_CONTROL_TX].enabled:
            did |= self._obey(queues[_CONTROL_TX])
        if queues[_CONTROL_RX].enabled:
            did |= self._tell(queues[_CONTROL_RX])
        for port in range(self._count):
            receive, transmit = (queues[index] for index in _queues_of(port))
            if transmit.enabled:
                did |= self._take(transmit, port)
            if receive.enabled and (port == CONSOLE or port in self._open):
                did |= self._give(receive, port)
        return did

    def state(self) -> Saved:
        """Which ports the guest has open, and what waits for it."""
        with self._lock:
            pending = [b64encode(each).decode("ascii") for each in self._pending]
        messages = [each.hex() for each in self._messages]
        return {
            "chosen": int(self._chosen),
            "open": sorted(self._open),
            "messages": messages,
            "pending": pending,
        }

    def set_state(self, state: Saved) -> None:
        """Have that. Raises `ValueError`."""
        pending = [bytearray(b64decode(each, validate=True)) for each in state["pending"]]
        if len(pending) != self._count:
            raise ValueError(f"a console with {len(pending)} ports in the place of one with {self._count}")
        self.negotiated(state["chosen"])
        self._open = {port for port in state["open"] if 0 <= port < self._count}
        self._messages = deque(bytes.fromhex(each) for each in state["messages"][:_MOST_MESSAGES])
        self._pending = pending

    def close(self) -> None:
        """Give the event counter back."""
        os.close(self._event)

    def _take(self, queue: Queue, port: int) -> bool:
        did = False
        while (chain := queue.pop()) is not None:
            start = 0
            while data := content(chain.readable, start, _PIECE):
                self._deliver(port, data)
                start += len(data)
            queue.push(chain, 0)
            did = True
        return did

    def _give(self, queue: Queue, port: int) -> bool:
        did = False
        pending = self._pending[port]
        while pending and (chain := queue.pop()) is not None:
            room = chain.room
            if not room:
                raise QueueError("a buffer to receive in that cannot be written")
            with self._lock:
                data = bytes(pending[:room])
                del pending[:room]
            fill(chain.writable, data)
            queue.push(chain, len(data))
            did = True
        return did

    def _tell(self, queue: Queue) -> bool:
        did = False
        while self._messages and (chain := queue.pop()) is not None:
            message = self._messages.popleft()
            if chain.room < len(message):
                raise QueueError("a buffer that a message of the console's has no room in")
            fill(chain.writable, message)
            queue.push(chain, len(message))
            did = True
        return did

    def _obey(self, queue: Queue) -> bool:
        did = False
        while (chain := queue.pop()) is not None:
            message = content(chain.readable, 0, _MESSAGE.size)
            if len(message) < _MESSAGE.size:
                raise QueueError("a message to the console that is none")
            self._react(*_MESSAGE.unpack(message))
            queue.push(chain, 0)
            did = True
        return did

    def _react(self, port: int, event: int, value: int) -> None:
        if event == Event.DEVICE_READY and value:
            for each in range(self._count):
                self._say(each, Event.PORT_ADD, 1)
        elif port >= self._count:
            return
        elif event == Event.PORT_READY and value:
            if port == CONSOLE:
                self._say(port, Event.CONSOLE_PORT, 1)
            else:
                self._say(port, Event.PORT_NAME, 1, self._names[port - 1].encode())
            self._say(port, Event.PORT_OPEN, 1)
        elif event == Event.PORT_OPEN:
            (self._open.add if value else self._open.discard)(port)

    def _say(self, port: int, event: Event, value: int, more: bytes = b"") -> None:
        if len(self._messages) >= _MOST_MESSAGES:
            raise QueueError("a console whose driver asks, and does not listen")
        self._messages.append(_MESSAGE.pack(port, event, value) + more)


def _queues_of(port: int) -> tuple[int, int]:
    """The queues that a port receives and transmits by, as the driver calls that (5.3.2)."""
    return (0, 1) if port == CONSOLE else (2 + 2 * port, 3 + 2 * port)
