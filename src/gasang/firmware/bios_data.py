"""The few fields of the BIOS data area that kernels read without asking whether there was a BIOS."""

from __future__ import annotations

import struct

from gasang.firmware.memory_map import LOW_MEMORY_END
from gasang.units import KIB

BIOS_DATA_AREA = 0x400
_SERIAL_PORTS, _EBDA_SEGMENT, _BASE_MEMORY = 0x00, 0x0E, 0x13


def bios_data_area() -> bytes:
    """256 bytes: the serial ports, the segment of the extended area, and the KiB of base memory."""
    area = bytearray(256)
    struct.pack_into("<4H", area, _SERIAL_PORTS, 0x3F8, 0x2F8, 0x3E8, 0x2E8)
    struct.pack_into("<H", area, _EBDA_SEGMENT, LOW_MEMORY_END >> 4)
    struct.pack_into("<H", area, _BASE_MEMORY, LOW_MEMORY_END // KIB)
    return bytes(area)
