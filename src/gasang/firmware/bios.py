"""What is left of a BIOS for kernels that look: its data area, and handlers that refuse every service.

Kernels booted by multiboot may drop to real mode and ask the BIOS for a memory map (INT 15h) or a video mode
(INT 10h). They get an error, and go on with what their boot loader told them.
"""

from __future__ import annotations

import struct

from gasang.firmware.memory_map import LOW_MEMORY_END
from gasang.units import KIB

_BIOS_SEGMENT = 0xF000
_CODE_OFFSET = 0xFF00
_RESET_OFFSET = 0xFFF0
"""Where the processor's reset vector is: old software jumps here to restart the machine."""

_REFUSE = bytes.fromhex("55 89e5 834e0601 5d cf")
"""push bp; mov bp, sp; or word [bp+6], 1; pop bp; iret: return with the carry flag set."""

_IGNORE = bytes.fromhex("cf")
"""iret"""

_RESTART = bytes.fromhex("b0fe e664 f4")
"""mov al, 0feh; out 64h, al; hlt: pulse the reset line by the keyboard controller."""

_DATA_AREA = 0x400
_SERIAL_PORTS, _EBDA_SEGMENT, _BASE_MEMORY = 0x00, 0x0E, 0x13


def bios_remains() -> dict[int, bytes]:
    """What to write to memory, by physical address."""
    base = _BIOS_SEGMENT << 4
    return {
        0: _interrupt_vectors(),
        _DATA_AREA: _data_area(),
        base + _CODE_OFFSET: _REFUSE + _IGNORE,
        base + _RESET_OFFSET: _RESTART,
    }


def _interrupt_vectors() -> bytes:
    """256 far pointers. Exceptions and hardware interrupts must leave alone the flags that they interrupt."""
    refuse, ignore = _CODE_OFFSET, _CODE_OFFSET + len(_REFUSE)
    hardware = {*range(0x10), *range(0x70, 0x78)}
    offsets = (ignore if vector in hardware else refuse for vector in range(256))
    return b"".join(struct.pack("<HH", offset, _BIOS_SEGMENT) for offset in offsets)


def _data_area() -> bytes:
    """The serial ports, the segment of the extended data area, and the KiB of base memory."""
    area = bytearray(256)
    struct.pack_into("<4H", area, _SERIAL_PORTS, 0x3F8, 0x2F8, 0x3E8, 0x2E8)
    struct.pack_into("<H", area, _EBDA_SEGMENT, LOW_MEMORY_END >> 4)
    struct.pack_into("<H", area, _BASE_MEMORY, LOW_MEMORY_END // KIB)
    return bytes(area)
