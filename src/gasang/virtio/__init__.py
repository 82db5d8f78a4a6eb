"""Virtio devices (OASIS, Virtual I/O Device Version 1.2), for the machine to attach."""

from typing import TYPE_CHECKING

from gasang.lazy import attributes

if TYPE_CHECKING:
    from gasang.virtio.balloon import Balloon
    from gasang.virtio.block import BlockDevice
    from gasang.virtio.console import ConsoleDevice
    from gasang.virtio.entropy import EntropyDevice
    from gasang.virtio.fs import FsDevice
    from gasang.virtio.mmio import VirtioMmio
    from gasang.virtio.net import NetDevice
    from gasang.virtio.pci import PciSlot, VirtioPci
    from gasang.virtio.plan9 import Plan9Device
    from gasang.virtio.vsock import VsockDevice

__all__ = [
    "Balloon",
    "BlockDevice",
    "ConsoleDevice",
    "EntropyDevice",
    "FsDevice",
    "NetDevice",
    "PciSlot",
    "Plan9Device",
    "VirtioMmio",
    "VirtioPci",
    "VsockDevice",
]

__getattr__ = attributes(
    __name__,
    {
        "Balloon": "balloon",
        "BlockDevice": "block",
        "ConsoleDevice": "console",
        "EntropyDevice": "entropy",
        "FsDevice": "fs",
        "VirtioMmio": "mmio",
        "NetDevice": "net",
        "PciSlot": "pci",
        "Plan9Device": "plan9",
        "VirtioPci": "pci",
        "VsockDevice": "vsock",
    },
)
