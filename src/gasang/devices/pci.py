"""PCI configuration access by mechanism 1 (PCI 3.0, section 3.2.2.3.2) and the host bridge of bus 0.

Offset 0 is CONFIG_ADDRESS (0xcf8), which takes 32-bit accesses only; offset 4 is CONFIG_DATA (0xcfc). A byte
at offset 1 (0xcf9) is not PCI's but the chipset's reset control register, as in Intel's chipsets.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Protocol

from gasang.device import Saved

_ADDRESS, _RESET_CONTROL, _DATA = 0, 1, 4
_ENABLE = 1 << 31
_ADDRESS_BITS = 0x80FFFFFC
_RESET_CPU, _SYSTEM_RESET = 1 << 2, 1 << 1


class PciFunction(Protocol):
    """A function's 256 bytes of configuration space; accesses do not cross a 32-bit register."""

    def read_config(self, register: int, size: int) -> int: ...

    def write_config(self, register: int, size: int, value: int) -> None: ...


class HostBridge:
    """The bridge's own function: identification and nothing to configure."""

    _VENDOR_INTEL, _DEVICE_440FX, _REVISION = 0x8086, 0x1237, 0x02
    _CLASS_HOST_BRIDGE = 0x0600
    _VENDOR_RED_HAT, _QEMU = 0x1AF4, 0x1100
    """What SeaBIOS knows a machine by that has a firmware configuration device."""

    _PAM, _ALL_RAM = 0x59, bytes([0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33])
    """Programmable attribute map: from 768 KiB to 1 MiB there is RAM, to be read and written (82441FX data
    sheet, 3.2.18)."""

    def __init__(self) -> None:
        head = struct.pack(
            "<HHHHBBH",
            self._VENDOR_INTEL,
            self._DEVICE_440FX,
            0,
            0,
            self._REVISION,
            0,
            self._CLASS_HOST_BRIDGE,
        )
        space = bytearray(head.ljust(256, b"\0"))
        struct.pack_into("<HH", space, 0x2C, self._VENDOR_RED_HAT, self._QEMU)
        space[self._PAM : self._PAM + len(self._ALL_RAM)] = self._ALL_RAM
        self._space = bytes(space)

    def read_config(self, register: int, size: int) -> int:
        return int.from_bytes(self._space[register : register + size], "little")

    def write_config(self, register: int, size: int, value: int) -> None:
        """Every register is read-only."""


class PciConfiguration:
    """Finds the function that CONFIG_ADDRESS names. `functions` maps (bus, device, function) to it."""

    def __init__(
        self, functions: Mapping[tuple[int, int, int], PciFunction], reset: Callable[[], None]
    ) -> None:
        # wiring
        self._functions = functions
        self._reset = reset
        # volatile state
        self._address = 0
        self._reset_control = 0

    def read(self, offset: int, size: int) -> int:
        if offset >= _DATA:
            function = self._selected()
            if function is None:
                return (1 << (8 * size)) - 1
            return function.read_config(self._register(offset), size)
        if offset == _ADDRESS and size == 4:
            return self._address
        if offset == _RESET_CONTROL and size == 1:
            return self._reset_control
        return (1 << (8 * size)) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        if offset >= _DATA:
            function = self._selected()
            if function is not None:
                function.write_config(self._register(offset), size, value)
        elif offset == _ADDRESS and size == 4:
            self._address = value & _ADDRESS_BITS
        elif offset == _RESET_CONTROL and size == 1:
            self._write_reset_control(value)

    def state(self) -> Saved:
        return {"address": self._address, "reset_control": self._reset_control}

    def set_state(self, state: Saved) -> None:
        self._address = state["address"] & _ADDRESS_BITS
        self._reset_control = state["reset_control"] & (_RESET_CPU | _SYSTEM_RESET)

    def _selected(self) -> PciFunction | None:
        if not self._address & _ENABLE:
            return None
        bus, device = self._address >> 16 & 0xFF, self._address >> 11 & 0x1F
        return self._functions.get((bus, device, self._address >> 8 & 7))

    def _register(self, offset: int) -> int:
        return (self._address & 0xFC) + (offset - _DATA)

    def _write_reset_control(self, value: int) -> None:
        """RST_CPU going from 0 to 1 resets the machine; SYS_RST chooses how, which is all the same here."""
        rising = value & ~self._reset_control & _RESET_CPU
        self._reset_control = value & (_RESET_CPU | _SYSTEM_RESET)
        if rising:
            self._reset()
