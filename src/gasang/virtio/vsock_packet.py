"""Packets of the socket device (Virtio 1.2, 5.10.6)."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple, Self

HOST_CID = 2
STREAM = 1
SHUT_RECEIVE, SHUT_SEND = 1, 2

_HEADER = struct.Struct("<QQIIIHHIII")
HEADER_SIZE = _HEADER.size


class Operation(IntEnum):
    """What a packet is for (5.10.6)."""

    REQUEST = 1
    RESPONSE = 2
    RST = 3
    SHUTDOWN = 4
    RW = 5
    CREDIT_UPDATE = 6
    CREDIT_REQUEST = 7


class Packet(NamedTuple):
    """A header, struct virtio_vsock_hdr."""

    source_cid: int
    destination_cid: int
    source_port: int
    destination_port: int
    length: int
    kind: int
    operation: int
    flags: int
    buffer: int
    """The sender's whole buffer for this connection, in bytes."""
    forwarded: int
    """How many bytes of it the sender has taken since the connection began, modulo 2**32."""

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The header that these bytes are."""
        return cls(*_HEADER.unpack(data))

    def pack(self) -> bytes:
        """Its bytes."""
        return _HEADER.pack(
            self.source_cid,
            self.destination_cid,
            self.source_port,
            self.destination_port,
            self.length,
            self.kind,
            self.operation,
            self.flags,
            self.buffer,
            self.forwarded,
        )

    def refusal(self) -> Packet:
        """The RST that answers it."""
        return self._replace(
            source_cid=self.destination_cid,
            destination_cid=self.source_cid,
            source_port=self.destination_port,
            destination_port=self.source_port,
            length=0,
            operation=Operation.RST,
            flags=0,
            buffer=0,
            forwarded=0,
        )
