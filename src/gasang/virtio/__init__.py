"""Virtio devices (OASIS, Virtual I/O Device Version 1.2), for the machine to attach."""

from gasang.virtio.block import BlockDevice
from gasang.virtio.entropy import EntropyDevice
from gasang.virtio.pci import PciSlot, VirtioPci

__all__ = ["BlockDevice", "EntropyDevice", "PciSlot", "VirtioPci"]
