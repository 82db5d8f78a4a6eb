"""A BIOS: its file ends at 1 MiB, and processor 0 begins at its reset vector."""

from __future__ import annotations

from pathlib import Path

from gasang.errors import KernelError
from gasang.firmware.memory_map import FIRMWARE_END
from gasang.firmware.seabios import SIZES
from gasang.loaders.image import BootImage, Segment, SegmentRegister
from gasang.units import format_size

_RESET_SEGMENT, _RESET_OFFSET = 0xF000, 0xFFF0
_REAL_MODE_CODE = 0x9B


def load_bios(path: Path) -> BootImage:
    """The BIOS in a file. Raises `KernelError` for what is none.

    The reset vector is that below 1 MiB: its twin below 4 GiB is the same code, in the same segment but for
    its base.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise KernelError(f"BIOS {path}: {error.strerror}") from error
    if len(content) not in SIZES:
        sizes = ", ".join(format_size(each) for each in SIZES)
        raise KernelError(f"BIOS {path}: of {len(content)} bytes, and a BIOS has {sizes}")
    code = SegmentRegister(_RESET_SEGMENT, _RESET_SEGMENT << 4, 0xFFFF, _REAL_MODE_CODE)
    return BootImage(
        protocol="BIOS",
        segments=[Segment(FIRMWARE_END - len(content), content, "BIOS")],
        registers={"cs": code, "rip": _RESET_OFFSET},
    )
