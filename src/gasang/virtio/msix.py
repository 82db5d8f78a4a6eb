"""MSI-X: a table of messages in a BAR, and which of them wait (PCI Local Bus 3.0, 6.8.2)."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable

from gasang.device import Saved

NO_VECTOR = 0xFFFF
TABLE, PENDING, LENGTH = 0x000, 0x800, 0x1000
"""Where they are in the BAR, and its length."""

_ENTRY = struct.Struct("<IIII")
_MASKED = 1
ENABLE, FUNCTION_MASK = 1 << 15, 1 << 14


class MsiX:
    """`send(address, data)` delivers a message. Accesses to its BAR are by offset."""

    def __init__(self, vectors: int, send: Callable[[int, int], object]) -> None:
        # static configuration
        self.vectors = vectors
        # wiring
        self._send = send
        self._lock = threading.Lock()
        # volatile state
        self._table = bytearray(_ENTRY.pack(0, 0, 0, _MASKED) * vectors)
        self._pending = 0
        self._control = 0

    @property
    def control(self) -> int:
        """Message Control, of the capability."""
        return self._control | self.vectors - 1

    @control.setter
    def control(self, value: int) -> None:
        with self._lock:
            self._control = value & (ENABLE | FUNCTION_MASK)
            self._send_pending()

    @property
    def enabled(self) -> bool:
        return bool(self._control & ENABLE)

    def interrupt(self, vector: int) -> None:
        """Send the message of a vector, now or when it is not masked any more."""
        if vector >= self.vectors:
            return
        with self._lock:
            self._pending |= 1 << vector
            self._send_pending()

    def read(self, offset: int, size: int) -> int:
        with self._lock:
            if offset < len(self._table):
                return int.from_bytes(self._table[offset : offset + size], "little")
            if PENDING <= offset < PENDING + 8:
                return self._pending >> 8 * (offset - PENDING) & (1 << 8 * size) - 1
            return 0

    def write(self, offset: int, size: int, value: int) -> None:
        with self._lock:
            if offset + size <= len(self._table):
                self._table[offset : offset + size] = value.to_bytes(size, "little")
                self._send_pending()

    def state(self) -> Saved:
        with self._lock:
            return {"table": self._table.hex(), "pending": self._pending, "control": self._control}

    def set_state(self, state: Saved) -> None:
        table = bytes.fromhex(state["table"])
        if len(table) != len(self._table):
            raise ValueError(f"a table of {len(table)} bytes for {self.vectors} vectors")
        with self._lock:
            self._table[:] = table
            self._pending = state["pending"] & (1 << self.vectors) - 1
            self._control = state["control"] & (ENABLE | FUNCTION_MASK)

    def close(self) -> None:
        """Send no more."""
        with self._lock:
            self._send = lambda address, data: None

    def _send_pending(self) -> None:
        if self._control & (ENABLE | FUNCTION_MASK) != ENABLE:
            return
        for vector in range(self.vectors):
            if not self._pending >> vector & 1:
                continue
            low, high, data, control = _ENTRY.unpack_from(self._table, _ENTRY.size * vector)
            if not control & _MASKED:
                self._pending &= ~(1 << vector)
                self._send(high << 32 | low, data)
