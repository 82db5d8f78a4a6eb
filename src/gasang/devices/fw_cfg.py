"""QEMU's firmware configuration device (QEMU, docs/specs/fw_cfg.rst): data for firmware and test kernels.

Offset 0 is the 16-bit selector (0x510), offset 1 the data port (0x511), offset 4 the 64-bit DMA address
(0x514), whose lower half comes last and starts the transfer.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum, IntFlag

from gasang.device import GuestMemory, GuestMemoryError, Saved

_SELECTOR, _DATA, _DMA_HIGH, _DMA_LOW = 0, 1, 4, 8
_FIRST_FILE = 0x20
_FILE_NAME_SIZE = 56
_DMA_SIGNATURE = b"QEMU CFG"


class Item(IntEnum):
    """Selector keys of the data that has a number."""

    SIGNATURE = 0x00
    ID = 0x01
    RAM_SIZE = 0x03
    CPU_COUNT = 0x05
    MAXIMUM_CPUS = 0x0F
    FILE_DIRECTORY = 0x19


class _Control(IntFlag):
    """The low half of a DMA request's first word; the high half may hold a selector."""

    ERROR = 1 << 0
    READ = 1 << 1
    SKIP = 1 << 2
    SELECT = 1 << 3
    WRITE = 1 << 4


class FirmwareConfiguration:
    """Read-only items by number, and `files` by name in the order given."""

    def __init__(self, memory: GuestMemory, ram: int, cpus: int, files: Mapping[str, bytes]) -> None:
        traditional, dma = 1 << 0, 1 << 1
        # wiring
        self._memory = memory
        # static configuration
        self._items: dict[int, bytes] = {
            Item.SIGNATURE: b"QEMU",
            Item.ID: struct.pack("<I", traditional | dma),
            Item.RAM_SIZE: struct.pack("<Q", ram),
            Item.CPU_COUNT: struct.pack("<H", cpus),
            Item.MAXIMUM_CPUS: struct.pack("<H", cpus),
            Item.FILE_DIRECTORY: _directory(files),
            **dict(enumerate(files.values(), start=_FIRST_FILE)),
        }
        # volatile state
        self._key = -1
        self._position = 0
        self._dma_high = 0

    def read(self, offset: int, size: int) -> int:
        if offset == _DATA and size == 1:
            return self._take(1)[0]
        if offset in (_DMA_HIGH, _DMA_LOW) and size == 4:
            return int.from_bytes(_DMA_SIGNATURE[offset - _DMA_HIGH :][:4], "little")
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == _SELECTOR and size == 2:
            self._select(value)
        elif offset == _DMA_HIGH and size == 4:
            self._dma_high = _swapped(value)
        elif offset == _DMA_LOW and size == 4:
            address, self._dma_high = self._dma_high << 32 | _swapped(value), 0
            self._transfer(address)

    def state(self) -> Saved:
        return {"key": self._key, "position": self._position, "dma_high": self._dma_high}

    def set_state(self, state: Saved) -> None:
        self._select(int(state["key"]))
        self._position = max(int(state["position"]), 0)
        self._dma_high = state["dma_high"] & 0xFFFFFFFF

    def _select(self, key: int) -> None:
        self._key = key
        self._position = 0

    def _take(self, length: int) -> bytes:
        """The next bytes of the selected item; zeros behind its end."""
        data = self._items.get(self._key, b"")[self._position : self._position + length]
        self._position += length
        return data.ljust(length, b"\0")

    def _transfer(self, request: int) -> None:
        """Obey the request at a guest address: control, length, address, big-endian; answer in control."""
        try:
            control, length, address = struct.unpack(">IIQ", self._memory.read(request, 16))
            self._memory.write(request, struct.pack(">I", self._obey(control, length, address)))
        except GuestMemoryError:
            return  # nowhere to report to

    def _obey(self, control: int, length: int, address: int) -> int:
        if control & _Control.SELECT:
            self._select(control >> 16)
        if control & _Control.WRITE:
            return _Control.ERROR
        if control & _Control.READ:
            return self._copy(address, length)
        if control & _Control.SKIP:
            self._position += length
        return 0

    def _copy(self, address: int, length: int) -> int:
        """To guest memory, in pieces: `length` is the guest's, and may be absurd."""
        piece = 1 << 20
        try:
            for start in range(0, length, piece):
                self._memory.write(address + start, self._take(min(piece, length - start)))
        except GuestMemoryError:
            return _Control.ERROR
        return 0


def _directory(files: Mapping[str, bytes]) -> bytes:
    """The count, then per file: size, selector, 0, name; big-endian."""
    entries = [
        struct.pack(f">IHH{_FILE_NAME_SIZE}s", len(data), key, 0, name.encode("ascii"))
        for key, (name, data) in enumerate(files.items(), start=_FIRST_FILE)
    ]
    return struct.pack(">I", len(entries)) + b"".join(entries)


def _swapped(value: int) -> int:
    return int.from_bytes(value.to_bytes(4, "little"), "big")
