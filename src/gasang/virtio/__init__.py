"""Virtio devices (OASIS, Virtual I/O Device Version 1.2), for the machine to attach."""

from gasang.virtio.balloon import Balloon
from gasang.virtio.block import BlockDevice
from gasang.virtio.console import ConsoleDevice
from gasang.virtio.entropy import EntropyDevice
from gasang.virtio.fs import FsDevice
from gasang.virtio.net import NetDevice
from gasang.virtio.pci import PciSlot, VirtioPci
from gasang.virtio.vsock import VsockDevice

__all__ = [
    "Balloon",
    "BlockDevice",
    "ConsoleDevice",
    "EntropyDevice",
    "FsDevice",
    "NetDevice",
    "PciSlot",
    "VirtioPci",
    "VsockDevice",
]
