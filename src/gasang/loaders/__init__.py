"""From files to a `BootImage`: what to write into guest memory, and the registers to enter with."""

from typing import TYPE_CHECKING

from gasang.lazy import attributes

if TYPE_CHECKING:
    from gasang.loaders.bios import load_bios
    from gasang.loaders.detect import is_multiboot, load, unwrap
    from gasang.loaders.image import BootImage, BootRequest, Segment, SegmentRegister, TableRegister

__all__ = [
    "BootImage",
    "BootRequest",
    "Segment",
    "SegmentRegister",
    "TableRegister",
    "is_multiboot",
    "load",
    "load_bios",
    "unwrap",
]

__getattr__ = attributes(
    __name__,
    {
        "is_multiboot": "detect",
        "load": "detect",
        "load_bios": "bios",
        "unwrap": "detect",
        "BootImage": "image",
        "BootRequest": "image",
        "Segment": "image",
        "SegmentRegister": "image",
        "TableRegister": "image",
    },
)
