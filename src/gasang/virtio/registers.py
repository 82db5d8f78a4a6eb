"""The registers of a virtio device over PCI, and its life from reset to reset (Virtio 1.2, 2.1, 4.1.4.3)."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum, IntFlag

from gasang import log
from gasang.device import MemoryInPlace, Saved
from gasang.virtio.device import VirtioDevice, Worker, serve
from gasang.virtio.msix import NO_VECTOR
from gasang.virtio.queue import Queue, QueueError

NOTIFY_STRIDE = 4
"""Bytes from one queue's notification address to the next."""


_INDIRECT_DESCRIPTORS, _EVENT_INDEX, _VERSION_1 = 1 << 28, 1 << 29, 1 << 32
_TRANSPORT = _INDIRECT_DESCRIPTORS | _EVENT_INDEX | _VERSION_1


class Status(IntFlag):
    """Device status (2.1)."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    NEEDS_RESET = 64
    FAILED = 128


class Common(IntEnum):
    """Offsets in the common configuration structure."""

    DEVICE_FEATURE_SELECT = 0x00
    DEVICE_FEATURE = 0x04
    DRIVER_FEATURE_SELECT = 0x08
    DRIVER_FEATURE = 0x0C
    CONFIG_VECTOR = 0x10
    QUEUES = 0x12
    STATUS = 0x14
    CONFIG_GENERATION = 0x15
    QUEUE_SELECT = 0x16
    QUEUE_SIZE = 0x18
    QUEUE_VECTOR = 0x1A
    QUEUE_ENABLE = 0x1C
    QUEUE_NOTIFY_OFFSET = 0x1E
    QUEUE_DESCRIPTORS = 0x20
    QUEUE_DRIVER = 0x28
    QUEUE_DEVICE = 0x30


class Registers:
    """What the driver sees of `device`. `interrupt` is called with a vector of MSI-X.

    `add_bell` makes the event counter of a queue's doorbell; without it requests are done by whoever rings.
    """

    def __init__(
        self,
        device: VirtioDevice,
        memory: MemoryInPlace,
        interrupt: Callable[[int], None],
        fail: Callable[[BaseException], None],
        *,
        add_bell: Callable[[int], int] | None,
        remove_bell: Callable[[int], None],
    ) -> None:
        # static configuration
        self._offered = device.features | _TRANSPORT
        # wiring
        self._device = device
        self._memory = memory
        self._interrupt = interrupt
        self._fail = fail
        self._add_bell = add_bell
        self._remove_bell = remove_bell
        self._worker: Worker | None = None
        self._audible = False
        self._paused = False
        self._closed = False
        # volatile state
        self._generation = 0
        self._reset()
        device.connect(self._configuration_changed)

    def _reset(self) -> None:
        self._status = Status(0)
        self._accepted = 0
        self._offered_select = self._accepted_select = 0
        self._config_vector = NO_VECTOR
        self._selected = 0
        self._queues = [Queue(self._memory) for _ in range(self._device.queues)]
        self._vectors = [NO_VECTOR] * self._device.queues

    def listen(self) -> None:
        """Doorbells can be rung from now on."""
        self._audible = True
        self._go()

    def silence(self) -> None:
        """They cannot any more."""
        self._halt()
        self._audible = False

    def pause(self) -> None:
        """Serve nothing until `resume`, beginning after the request that is being served."""
        self._paused = True
        self._halt()

    def resume(self) -> None:
        """Serve again, and what was asked for meanwhile."""
        self._paused = False
        self._go()

    def state(self) -> Saved:
        """What is volatile, while it is paused."""
        return {
            "generation": self._generation,
            "status": int(self._status),
            "accepted": self._accepted,
            "offered_select": self._offered_select,
            "accepted_select": self._accepted_select,
            "config_vector": self._config_vector,
            "selected": self._selected,
            "vectors": list(self._vectors),
            "queues": [queue.state() for queue in self._queues],
            "device": self._device.state(),
        }

    def set_state(self, state: Saved) -> None:
        """Have what another had, while it is paused. Raises `ValueError`."""
        if state["accepted"] & ~self._offered:
            raise ValueError(f"a driver that accepted features {state['accepted']:#x}")
        self._status = Status(state["status"] & 0xFF)
        self._accepted = int(state["accepted"])
        if self._status & Status.FEATURES_OK:
            self._device.negotiated(self._accepted)
        self._generation = state["generation"] & 0xFF
        self._offered_select, self._accepted_select = (
            state[name] & 0xFFFFFFFF for name in ("offered_select", "accepted_select")
        )
        self._config_vector = self._vector(state["config_vector"])
        self._selected = state["selected"] & 0xFFFF
        self._vectors = [
            self._vector(vector) for _, vector in zip(self._queues, state["vectors"], strict=True)
        ]
        for queue, saved in zip(self._queues, state["queues"], strict=True):
            queue.set_state(saved)
        self._device.set_state(state["device"])

    def close(self) -> None:
        """End the thread, and give the device's resources back. Nothing is done any more after that."""
        self._halt()
        self._closed = True
        self._device.close()
        # Guest memory goes with whoever refers to it: nothing here does any more, in circles or otherwise.
        self._device.connect(lambda: None)
        self._add_bell, self._remove_bell = None, lambda _: None
        self._reset()

    def notify(self, index: int) -> None:
        """The driver rings where no event counter hears it."""
        if self._worker is None and index < len(self._queues) and self._is_live():
            try:
                serve(self._device, self._queues[index], index, self._interrupt_queue)
            except QueueError as error:
                self._break(error)

    def read_config(self, offset: int, size: int) -> int:
        return int.from_bytes(self._device.config()[offset : offset + size], "little")

    def write_config(self, offset: int, size: int, value: int) -> None:
        self._device.write_config(offset, size, value)

    def read_common(self, offset: int, size: int) -> int:
        register = offset & ~3 if offset < Common.CONFIG_VECTOR or offset >= 0x20 else offset
        value = self._common(register)
        return value >> 8 * (offset - register) & (1 << 8 * size) - 1

    def _common(self, register: int) -> int:
        queue = self._queue()
        if queue is not None and register >= Common.QUEUE_SIZE:
            return self._of_queue(queue, register)
        registers: dict[int, int] = {
            Common.DEVICE_FEATURE_SELECT: self._offered_select,
            Common.DEVICE_FEATURE: _word(self._offered, self._offered_select),
            Common.DRIVER_FEATURE_SELECT: self._accepted_select,
            Common.DRIVER_FEATURE: _word(self._accepted, self._accepted_select),
            Common.CONFIG_VECTOR: self._config_vector,
            Common.QUEUES: len(self._queues),
            Common.STATUS: self._status,
            Common.CONFIG_GENERATION: self._generation,
            Common.QUEUE_SELECT: self._selected,
        }
        return registers.get(register, 0)

    def _of_queue(self, queue: Queue, register: int) -> int:
        """A register of the queue that is selected."""
        registers: dict[int, int] = {
            Common.QUEUE_SIZE: queue.size,
            Common.QUEUE_VECTOR: self._vectors[self._selected],
            Common.QUEUE_ENABLE: queue.enabled,
            Common.QUEUE_NOTIFY_OFFSET: self._selected,
        }
        areas = (queue.descriptors, queue.driver_area, queue.device_area)
        for first, area in zip((0x20, 0x28, 0x30), areas, strict=True):
            registers |= {first: area & 0xFFFFFFFF, first + 4: area >> 32}
        return registers.get(register, 0)

    def write_common(self, offset: int, size: int, value: int) -> None:
        match offset:
            case Common.DEVICE_FEATURE_SELECT:
                self._offered_select = value
            case Common.DRIVER_FEATURE_SELECT:
                self._accepted_select = value
            case Common.DRIVER_FEATURE if not self._status & Status.FEATURES_OK:
                self._accept(value)
            case Common.CONFIG_VECTOR:
                self._config_vector = self._vector(value)
            case Common.STATUS:
                self._set_status(value & 0xFF)
            case Common.QUEUE_SELECT:
                self._selected = value
            case _:
                self._write_queue(offset, size, value)

    def _write_queue(self, offset: int, size: int, value: int) -> None:
        queue = self._queue()
        if queue is None:
            return
        if offset == Common.QUEUE_VECTOR:
            self._vectors[self._selected] = self._vector(value)
            return
        if queue.enabled:
            return
        match offset:
            case Common.QUEUE_SIZE:
                queue.size = value
            case Common.QUEUE_ENABLE if value == 1:
                self._enable(queue)
            case _ if 0x20 <= offset < 0x38 and size == 4:
                self._set_area(queue, offset, value)

    def _set_area(self, queue: Queue, offset: int, value: int) -> None:
        shift = 8 * (offset & 4)
        name = ("descriptors", "driver_area", "device_area")[(offset - 0x20) // 8]
        kept = getattr(queue, name) & ~(0xFFFFFFFF << shift)
        setattr(queue, name, kept | value << shift)

    def _enable(self, queue: Queue) -> None:
        try:
            queue.enable(event_index=bool(self._accepted & _EVENT_INDEX))
        except QueueError as error:
            self._break(error)

    def _queue(self) -> Queue | None:
        return self._queues[self._selected] if self._selected < len(self._queues) else None

    def _vector(self, value: int) -> int:
        """What a vector register reads as after this is written to it (4.1.5.1.2)."""
        return value if value <= len(self._queues) else NO_VECTOR

    def _accept(self, value: int) -> None:
        if self._accepted_select < 2:
            shift = 32 * self._accepted_select
            self._accepted = self._accepted & ~(0xFFFFFFFF << shift) | value << shift

    def _set_status(self, value: int) -> None:
        if value == 0:
            self._halt()
            self._reset()
            return
        if value & Status.FEATURES_OK and not self._status & Status.FEATURES_OK:
            if self._accepted & ~self._offered or not self._accepted & _VERSION_1:
                value &= ~Status.FEATURES_OK  # The driver looks, and sees that this will not do (3.1.1).
            else:
                self._device.negotiated(self._accepted)
        self._status = Status(value | self._status & Status.NEEDS_RESET)
        self._go()

    def _is_live(self) -> bool:
        stopped = self._closed or self._status & (Status.NEEDS_RESET | Status.FAILED)
        return bool(self._status & Status.DRIVER_OK) and not stopped

    def _go(self) -> None:
        """Serve requests from now on, if everything is as it must be."""
        silent = self._add_bell is None or self._paused or not self._audible
        if self._worker is not None or silent or not self._is_live():
            return
        assert self._add_bell is not None
        bells = [self._add_bell(index) for index in range(len(self._queues))]
        self._worker = Worker(
            self._device,
            self._queues,
            bells,
            interrupt=self._interrupt_queue,
            broken=self._break,
            failed=self._fail,
        )

    def _halt(self) -> None:
        if self._worker is not None:
            for index in range(len(self._queues)):
                self._remove_bell(index)
            self._worker.stop()
            self._worker = None

    def _interrupt_queue(self, index: int) -> None:
        if self._vectors[index] != NO_VECTOR:
            self._interrupt(self._vectors[index])

    def _break(self, error: QueueError) -> None:
        """The driver broke a rule: nothing is done until it resets the device (2.1.2)."""
        log.warn("virtio device %d: %s; it waits for a reset", self._device.device_id, error)
        self._status |= Status.NEEDS_RESET
        self._configuration_changed()

    def _configuration_changed(self) -> None:
        self._generation = self._generation + 1 & 0xFF
        if self._status & Status.DRIVER_OK and self._config_vector != NO_VECTOR:
            self._interrupt(self._config_vector)


def _word(value: int, select: int) -> int:
    return value >> 32 * select & 0xFFFFFFFF if select < 2 else 0
