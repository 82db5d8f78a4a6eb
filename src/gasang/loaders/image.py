"""What loaders take and give: a `BootRequest` becomes a `BootImage`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gasang.firmware.memory_map import MemoryRange


@dataclass(frozen=True, slots=True)
class SegmentRegister:
    """A segment register with its hidden part.

    `limit` is in bytes; `attributes` has the layout of a VMCS access-rights field (SDM vol. 3, 25.4.1).
    """

    selector: int
    base: int
    limit: int
    attributes: int


@dataclass(frozen=True, slots=True)
class TableRegister:
    """GDTR or IDTR."""

    base: int
    limit: int


Registers = Mapping[str, int | SegmentRegister | TableRegister]
"""Registers by their manual's names; those not named keep their values after reset."""


@dataclass(frozen=True, slots=True)
class Segment:
    """`data` to be written at a physical `address`; `purpose` says what it is, for people."""

    address: int
    data: bytes | memoryview
    purpose: str


@dataclass(frozen=True, slots=True)
class BootImage:
    """A kernel ready to run. `protocol` names how it is entered, for people."""

    protocol: str
    segments: Sequence[Segment]
    registers: Registers


@dataclass(frozen=True, slots=True)
class BootRequest:
    """What is to be booted, and on what.

    `path` is the kernel's file and `kernel` its content. `initrd` and the modules may be maps of large files;
    `modules` are multiboot's, each a content and its command line. `rsdp_address` is where the RSDP lies.
    """

    path: Path
    kernel: bytes
    memory_map: Sequence[MemoryRange]
    rsdp_address: int
    append: str = ""
    initrd: memoryview | None = None
    modules: Sequence[tuple[memoryview, str]] = ()
