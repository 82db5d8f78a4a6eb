"""The MMIO transport (Virtio 1.2, 4.2): a page of registers, and a line that is high until acknowledged."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from enum import IntEnum, IntFlag
from typing import Protocol

from gasang.device import InterruptLine, MemoryInPlace, Saved
from gasang.virtio.device import VirtioDevice
from gasang.virtio.queue import MOST_DESCRIPTORS
from gasang.virtio.registers import Common, Registers

_MAGIC, _VERSION, _VENDOR = 0x74726976, 2, 0x1AF4
_CONFIGURATION_VECTOR, _QUEUE_VECTOR = 0, 1
"""The registers have vectors of MSI-X; here they stand for the bits of the interrupt status."""


class Register(IntEnum):
    """Offsets of the registers, and of the device's configuration behind them."""

    MAGIC = 0x000
    VERSION = 0x004
    DEVICE_ID = 0x008
    VENDOR_ID = 0x00C
    DEVICE_FEATURES = 0x010
    DEVICE_FEATURES_SELECT = 0x014
    DRIVER_FEATURES = 0x020
    DRIVER_FEATURES_SELECT = 0x024
    QUEUE_SELECT = 0x030
    QUEUE_SIZE_MOST = 0x034
    QUEUE_SIZE = 0x038
    QUEUE_READY = 0x044
    QUEUE_NOTIFY = 0x050
    INTERRUPT_STATUS = 0x060
    INTERRUPT_ACKNOWLEDGE = 0x064
    STATUS = 0x070
    SHARED_LENGTH = 0x0B0
    SHARED_BASE = 0x0B8
    GENERATION = 0x0FC
    CONFIGURATION = 0x100


class Interrupt(IntFlag):
    """Interrupt status (4.2.2)."""

    QUEUE = 1
    CONFIGURATION = 2


_SAME: dict[int, tuple[int, int]] = {
    Register.DEVICE_FEATURES: (Common.DEVICE_FEATURE, 4),
    Register.DEVICE_FEATURES_SELECT: (Common.DEVICE_FEATURE_SELECT, 4),
    Register.DRIVER_FEATURES: (Common.DRIVER_FEATURE, 4),
    Register.DRIVER_FEATURES_SELECT: (Common.DRIVER_FEATURE_SELECT, 4),
    Register.QUEUE_SELECT: (Common.QUEUE_SELECT, 2),
    Register.QUEUE_SIZE: (Common.QUEUE_SIZE, 2),
    Register.QUEUE_READY: (Common.QUEUE_ENABLE, 2),
    Register.STATUS: (Common.STATUS, 1),
    Register.GENERATION: (Common.CONFIG_GENERATION, 1),
    0x080: (Common.QUEUE_DESCRIPTORS, 4),
    0x084: (Common.QUEUE_DESCRIPTORS + 4, 4),
    0x090: (Common.QUEUE_DRIVER, 4),
    0x094: (Common.QUEUE_DRIVER + 4, 4),
    0x0A0: (Common.QUEUE_DEVICE, 4),
    0x0A4: (Common.QUEUE_DEVICE + 4, 4),
}
"""What PCI's common structure has too: where, and how wide it is there."""

_WRITE_ONLY = frozenset(
    {Register.DEVICE_FEATURES_SELECT, Register.DRIVER_FEATURES, Register.DRIVER_FEATURES_SELECT}
    | {Register.QUEUE_SELECT, Register.QUEUE_SIZE, *range(0x080, 0x0A8, 4)}
)
_NO_SHARED_MEMORY = {
    register + half: 0xFFFFFFFF
    for register in (Register.SHARED_LENGTH, Register.SHARED_BASE)
    for half in (0, 4)
}
_READ_ONLY = frozenset({Register.DEVICE_FEATURES, Register.GENERATION})


class MmioSlot(Protocol):
    """Where such a device is plugged in."""

    @property
    def interrupt(self) -> InterruptLine:
        """The device's own line."""

    def fail(self, error: BaseException) -> None:
        """An error of ours in a thread of ours: the machine cannot go on."""


class VirtioMmio:
    """A virtio device as a page of registers. If it is `synchronous`, requests are done while the driver
    rings; otherwise a thread does them."""

    def __init__(
        self, device: VirtioDevice, memory: MemoryInPlace, slot: MmioSlot, *, synchronous: bool = False
    ) -> None:
        # static configuration
        self._device_id = device.device_id
        self._queues = device.queues
        # wiring
        self._line: Callable[[bool], None] = slot.interrupt.set_level
        self._lock = threading.Lock()
        self._bells: dict[int, int] = {}
        self._registers = Registers(
            device,
            memory,
            self._interrupt,
            slot.fail,
            add_bell=None if synchronous else self._add_bell,
            remove_bell=self._remove_bell,
        )
        # volatile state
        self._selected = 0
        self._status = Interrupt(0)
        self._registers.listen()

    def read(self, offset: int, size: int) -> int:
        if offset >= Register.CONFIGURATION:
            return self._registers.read_config(offset - Register.CONFIGURATION, size)
        if size != 4 or offset in _WRITE_ONLY:
            return 0
        known: dict[int, int] = {
            Register.MAGIC: _MAGIC,
            Register.VERSION: _VERSION,
            Register.DEVICE_ID: self._device_id,
            Register.VENDOR_ID: _VENDOR,
            Register.QUEUE_SIZE_MOST: MOST_DESCRIPTORS if self._selected < self._queues else 0,
            Register.INTERRUPT_STATUS: self._status,
            **_NO_SHARED_MEMORY,
        }
        if offset in known:
            return known[offset]
        register, width = _SAME.get(offset, (0, 0))
        return self._registers.read_common(register, width) if width else 0

    def write(self, offset: int, size: int, value: int) -> None:
        if offset >= Register.CONFIGURATION:
            self._registers.write_config(offset - Register.CONFIGURATION, size, value)
            return
        if size != 4 or offset in _READ_ONLY:
            return
        match offset:
            case Register.QUEUE_NOTIFY:
                self._ring(value)
                return
            case Register.INTERRUPT_ACKNOWLEDGE:
                self._change(clear=value)
                return
            case Register.QUEUE_SELECT:
                self._selected = value
            case Register.QUEUE_READY:
                self._registers.write_common(Common.QUEUE_VECTOR, 2, _QUEUE_VECTOR)
        register, width = _SAME.get(offset, (0, 0))
        if width:
            self._registers.write_common(register, width, value & (1 << 8 * width) - 1)
        if offset == Register.STATUS and value == 0:
            self._change(clear=Interrupt.QUEUE | Interrupt.CONFIGURATION)
        elif offset == Register.STATUS:
            self._registers.write_common(Common.CONFIG_VECTOR, 2, _CONFIGURATION_VECTOR)

    def pause(self) -> None:
        """Serve nothing until `resume`."""
        self._registers.pause()

    def resume(self) -> None:
        """Serve again."""
        self._registers.resume()

    def state(self) -> Saved:
        """What is volatile, while it is paused."""
        return {
            "device_id": self._device_id,
            "selected": self._selected,
            "interrupts": int(self._status),
            "registers": self._registers.state(),
        }

    def set_state(self, state: Saved) -> None:
        """Have what another device of the same kind had, while it is paused. Raises `ValueError`.

        The level of the interrupt line is the interrupt controllers' to know.
        """
        if state["device_id"] != self._device_id:
            raise ValueError(f"a device {state['device_id']} in the place of a {self._device_id}")
        self._selected = state["selected"] & 0xFFFFFFFF
        self._status = Interrupt(state["interrupts"] & 3)
        self._registers.set_state(state["registers"])

    def close(self) -> None:
        """End the thread, and give the device's resources back."""
        self._registers.close()
        with self._lock:
            self._line = lambda _: None

    def _ring(self, queue: int) -> None:
        bell = self._bells.get(queue)
        if bell is not None:
            os.eventfd_write(bell, 1)
        else:
            self._registers.notify(queue)

    def _add_bell(self, queue: int) -> int:
        bell = self._bells[queue] = os.eventfd(0, os.EFD_CLOEXEC)
        return bell

    def _remove_bell(self, queue: int) -> None:
        self._bells.pop(queue, None)

    def _interrupt(self, vector: int) -> None:
        self._change(add=Interrupt.QUEUE if vector == _QUEUE_VECTOR else Interrupt.CONFIGURATION)

    def _change(self, add: int = 0, clear: int = 0) -> None:
        with self._lock:
            self._status = Interrupt((self._status | add) & ~clear & 3)
            self._line(bool(self._status))
