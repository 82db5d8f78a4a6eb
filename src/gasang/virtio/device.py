"""What a virtio device is to its transport, and the thread that serves its queues."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from gasang.device import Saved
from gasang.virtio.queue import Queue, QueueError


class VirtioDevice(Protocol):
    """One device. The transport calls it from one thread at a time; `serve` has a thread of its own."""

    device_id: int
    """Its number (Virtio 1.2, 5)."""

    pci_class: int
    """Class, subclass and interface of PCI, in 24 bits."""

    features: int
    """The feature bits of its kind that it offers."""

    queues: int

    def config(self) -> bytes:
        """Its configuration space."""

    def write_config(self, offset: int, size: int, value: int) -> None:
        """The driver writes there."""

    def connect(self, changed: Callable[[], None]) -> None:
        """`changed` tells the driver that the configuration space has changed."""

    def negotiated(self, features: int) -> None:
        """The driver has chosen these features."""

    def serve(self, queue: Queue, index: int) -> None:
        """Do what waits in a queue, until nothing does. Raises `QueueError`."""

    def close(self) -> None:
        """Give back what it has of the host."""

    def state(self) -> Saved:
        """What is volatile of it, while nothing is served."""

    def set_state(self, state: Saved) -> None:
        """Have that, of another of its kind in another machine, before anything is served."""


@runtime_checkable
class PolledDevice(VirtioDevice, Protocol):
    """A device to which something comes from the host as well: its thread calls `poll`, and never `serve`."""

    @property
    def descriptor(self) -> int:
        """Readable when there is something for `poll` to do."""

    def poll(self, queues: Sequence[Queue]) -> bool:
        """Do some of what there is to do for any queue; whether anything was done. Raises `QueueError`."""


class Worker:
    """The thread that serves a device's queues when their doorbells ring, until `stop`.

    `bells` are event counters (eventfd(2)), one for each queue, which are the worker's from now on.
    `interrupt` is called with a queue's number, `broken` when the driver broke a rule, `failed` with an error
    of ours.
    """

    def __init__(
        self,
        device: VirtioDevice,
        queues: Sequence[Queue],
        bells: Sequence[int],
        *,
        interrupt: Callable[[int], None],
        broken: Callable[[QueueError], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._device = device
        self._queues = queues
        self._bells = bells
        self._interrupt = interrupt
        self._broken = broken
        self._failed = failed
        self._stopping = False
        # What was asked for before anybody listened.
        for bell in bells:
            os.eventfd_write(bell, 1)
        name = f"gasang-virtio{device.device_id}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, after the request that it is at."""
        self._stopping = True
        for bell in self._bells:
            os.eventfd_write(bell, 1)
        if self._thread is not threading.current_thread():
            self._thread.join()
        for bell in self._bells:
            os.close(bell)

    def _run(self) -> None:
        poll = select.poll()
        for bell in self._bells:
            poll.register(bell, select.POLLIN)
        numbers = {bell: index for index, bell in enumerate(self._bells)}
        device = self._device if isinstance(self._device, PolledDevice) else None
        if device is not None:
            poll.register(device.descriptor, select.POLLIN)
        try:
            while not self._stopping:
                rung = [descriptor for descriptor, _ in poll.poll() if descriptor in numbers]
                for bell in rung:
                    os.eventfd_read(bell)
                    if not self._stopping and device is None:
                        self._serve(numbers[bell])
                if device is not None:
                    self._exchange(device)
        except QueueError as error:
            self._broken(error)
        except BaseException as error:  # whatever it is, those who wait for the machine must learn of it
            self._failed(error)

    def _exchange(self, device: PolledDevice) -> None:
        """Let a device do all that there is to do now, for every queue."""
        while not self._stopping and device.poll(self._queues):
            for index, queue in enumerate(self._queues):
                if queue.enabled:
                    if queue.publish():
                        self._interrupt(index)
                    queue.want_notifications(True)

    def _serve(self, index: int) -> None:
        serve(self._device, self._queues[index], index, self._interrupt)


def serve(device: VirtioDevice, queue: Queue, index: int, interrupt: Callable[[int], None]) -> None:
    """Serve one queue of a device until it is empty. Raises `QueueError`."""
    if not queue.enabled or isinstance(device, PolledDevice):
        return
    while True:
        queue.want_notifications(False)
        device.serve(queue, index)
        if queue.publish():
            interrupt(index)
        queue.want_notifications(True)
        if not queue.waits:  # What came before the driver saw that it is to ring again.
            return
