"""The network device (Virtio 1.2, 5.1): Ethernet frames between the guest and a cable.

One pair of queues and the control queue. With an MTU as large as a packet can be, nobody has to cut segments
or join them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from enum import IntFlag
from typing import Protocol

from gasang.device import Saved
from gasang.virtio.buffers import content, fill
from gasang.virtio.queue import Chain, Queue, QueueError

MTU = 65520
"""Bytes of the largest IP packet either way."""

MAC_BYTES = 6

_HEADER = struct.Struct("<BBHHHHH")
_DATA_VALID = 2
_MOST_BYTES = 14 + 4 + MTU
_AT_ONCE = 64
"""Frames taken from the guest before it is given some."""

_RX, _TX, _CONTROL = range(3)
_LINK_UP = 1
_CONTROL_MAC, _SET_ADDRESS = 1, 1
_OK, _ERROR = b"\0", b"\1"


class Feature(IntFlag):
    """What a driver may choose (5.1.3)."""

    CSUM = 1 << 0
    GUEST_CSUM = 1 << 1
    MTU = 1 << 3
    MAC = 1 << 5
    MRG_RXBUF = 1 << 15
    STATUS = 1 << 16
    CTRL_VQ = 1 << 17
    CTRL_MAC_ADDR = 1 << 23


_ALWAYS = Feature.GUEST_CSUM | Feature.MTU | Feature.MAC | Feature.MRG_RXBUF | Feature.STATUS
_ALWAYS |= Feature.CTRL_VQ | Feature.CTRL_MAC_ADDR


class Cable(Protocol):
    """What a network device is connected with. Frames are Ethernet's, without a checksum at their end."""

    checks: bool
    """It looks at checksums of TCP and UDP: the guest must compute them."""

    @property
    def descriptor(self) -> int:
        """Readable when there is something to `exchange`."""

    def take(self, frame: bytes) -> bool:
        """A frame of the guest's; whether there is room for another."""

    def exchange(self) -> bool:
        """Do what there is to do at the other end; whether there is room for a frame."""

    def give(self) -> bytes | None:
        """The next frame for the guest, if there is one."""

    def set_mac(self, mac: bytes) -> None:
        """The guest's device has this address from now on."""

    def state(self) -> Saved:
        """What is to be known of it after a restore."""

    def set_state(self, state: Saved) -> None:
        """Go on as well as can be where another was."""

    def close(self) -> None:
        """Give back what it has of the host."""


class NetDevice:
    """A network device with the address `mac`, on a cable."""

    device_id = 1
    pci_class = 0x020000
    queues = 3

    def __init__(self, cable: Cable, mac: bytes) -> None:
        # static configuration
        self.features: int = _ALWAYS if cable.checks else _ALWAYS | Feature.CSUM
        # wiring
        self._cable = cable
        # volatile state
        self._mac = mac
        self._chosen = Feature(0)
        self._room = True
        self._held: bytes | None = None

    @property
    def descriptor(self) -> int:
        """The cable's."""
        return self._cable.descriptor

    def config(self) -> bytes:
        """struct virtio_net_config (5.1.4), to the MTU."""
        return struct.pack("<6sHHH", self._mac, _LINK_UP, 1, MTU)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Nothing there can be written: an address is set by the control queue."""

    def connect(self, changed: Callable[[], None]) -> None:
        """It changes only when the driver changes it."""

    def negotiated(self, features: int) -> None:
        """Know what the driver can do."""
        self._chosen = Feature(features & self.features)

    def serve(self, queue: Queue, index: int) -> None:
        """It is polled."""

    def poll(self, queues: Sequence[Queue]) -> bool:
        """Frames from the guest, what the cable has to do, frames to the guest. Raises `QueueError`."""
        did = queues[_CONTROL].enabled and self._obey(queues[_CONTROL])
        if queues[_TX].enabled:
            did |= self._take(queues[_TX])
        had_room, self._room = self._room, self._cable.exchange()
        did |= self._room and not had_room  # There may be frames that waited for that.
        if queues[_RX].enabled:
            did |= self._give(queues[_RX])
        return did

    def state(self) -> Saved:
        """Its address, what the driver chose, and what the cable wants to be known."""
        return {"mac": self._mac.hex(), "chosen": int(self._chosen), "cable": self._cable.state()}

    def set_state(self, state: Saved) -> None:
        """Have that."""
        mac = bytes.fromhex(state["mac"])
        if len(mac) != MAC_BYTES:
            raise ValueError(f"an address of {len(mac)} bytes")
        self._mac = mac
        self._cable.set_mac(mac)
        self.negotiated(state["chosen"])
        self._cable.set_state(state["cable"])

    def close(self) -> None:
        """Unplug the cable."""
        self._cable.close()

    def _take(self, queue: Queue) -> bool:
        did = False
        for _ in range(_AT_ONCE):
            if not self._room or (chain := queue.pop()) is None:
                break
            did = True
            frame = content(chain.readable, _HEADER.size, _MOST_BYTES + 1)
            if len(frame) > _MOST_BYTES:
                raise QueueError("a frame that is longer than a frame can be")
            self._room = self._cable.take(frame)
            queue.push(chain, 0)
        return did

    def _give(self, queue: Queue) -> bool:
        did = False
        while (frame := self._held or self._cable.give()) is not None:
            self._held = None
            chains = self._room_for(queue, _HEADER.size + len(frame))
            if chains is None:
                self._held = frame
                break
            did = True
            self._fill(queue, chains, frame)
        return did

    def _room_for(self, queue: Queue, length: int) -> list[Chain] | None:
        """Buffers of the guest's for so many bytes: one, or if the driver can join them as many as it takes.

        None if there are not enough yet; then the driver tells of the next.
        """
        while True:
            before = queue.added
            chains: list[Chain] = []
            missing = length
            while missing > 0 and (chain := queue.pop()) is not None:
                chains.append(chain)
                missing -= chain.room
                if Feature.MRG_RXBUF not in self._chosen:
                    return chains
            if missing <= 0:
                return chains
            if len(chains) >= queue.size:
                raise QueueError("a full queue without room for a frame")
            for _ in chains:
                queue.put_back()
            # It may have added some since, and not seen that it is to tell.
            if queue.want_next_notification() == before:
                return None

    def _fill(self, queue: Queue, chains: list[Chain], frame: bytes) -> None:
        flags = _DATA_VALID if Feature.GUEST_CSUM in self._chosen else 0
        data = memoryview(_HEADER.pack(flags, 0, 0, 0, 0, 0, len(chains)) + frame)
        if sum(len(buffer) for chain in chains for buffer in chain.writable) < len(data):
            queue.push(chains[0], 0)  # One buffer, and too short: the frame is lost.
            return
        for chain in chains:
            count = min(chain.room, len(data))
            fill(chain.writable, data[:count])
            data = data[count:]
            queue.push(chain, count)

    def _obey(self, queue: Queue) -> bool:
        """Commands of the driver's (5.1.6.5): class, command, data; and the answer, a byte."""
        did = False
        while (chain := queue.pop()) is not None:
            command = content(chain.readable, 0, 2 + MAC_BYTES + 1)
            if not chain.writable:
                raise QueueError("a command without room for its answer")
            known = tuple(command[:2]) == (_CONTROL_MAC, _SET_ADDRESS) and len(command) == 2 + MAC_BYTES
            if known:
                self._mac = command[2:]
                self._cable.set_mac(self._mac)
            fill(chain.writable, _OK if known else _ERROR)
            queue.push(chain, 1)
            did = True
        return did
