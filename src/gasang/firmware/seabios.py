"""What a real BIOS is told: SeaBIOS, as in its docs/Runtime_config.md, by the firmware configuration device.

The BIOS itself is a file of the user's or of Debian's package.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from gasang.firmware.memory_map import FIRMWARE_END, MemoryRange, MemoryType
from gasang.firmware.tables import RSDP_LENGTH, AcpiTables
from gasang.units import KIB

SIZES = (64 * KIB, 128 * KIB, 256 * KIB)
"""What a BIOS may measure; its end is at 1 MiB."""

_SERIAL_CONSOLE = 0x3F8
_RSDP_FILE = "etc/acpi/rsdp"
_ALLOCATE, _LOW_ZONE, _ALIGNMENT = 1, 2, 16
_COMMAND_LENGTH = 128


def configuration_files(memory: Sequence[MemoryRange], tables: AcpiTables) -> dict[str, bytes]:
    """The files of the configuration device: where memory is, where the ACPI tables are, and that the first
    serial port is the console, as there is no screen."""
    return {
        "etc/e820": b"".join(_e820(each) for each in _simplified(memory)),
        "etc/sercon-port": struct.pack("<Q", _SERIAL_CONSOLE),
        _RSDP_FILE: tables.content[:RSDP_LENGTH],
        "etc/table-loader": _allocate_rsdp(),
    }


def _simplified(memory: Sequence[MemoryRange]) -> list[MemoryRange]:
    """RAM from 0 on in one range: what is where below 1 MiB, the BIOS decides."""
    low, *others = (each for each in memory if each.start >= FIRMWARE_END)
    return [MemoryRange(0, low.end, MemoryType.RAM), *others]


def _e820(memory: MemoryRange) -> bytes:
    kind = MemoryType.RAM if memory.type is MemoryType.RAM else MemoryType.RESERVED
    return struct.pack("<QQI", memory.start, memory.length, kind)


def _allocate_rsdp() -> bytes:
    """The loader's one command: put the RSDP where an operating system looks for it.

    The tables themselves are in memory already.
    """
    command = struct.pack("<I56sIB", _ALLOCATE, _RSDP_FILE.encode(), _ALIGNMENT, _LOW_ZONE)
    return command.ljust(_COMMAND_LENGTH, b"\0")
