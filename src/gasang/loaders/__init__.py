"""From files to a `BootImage`: what to write into guest memory, and the registers to enter with."""

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
    "unwrap",
]
