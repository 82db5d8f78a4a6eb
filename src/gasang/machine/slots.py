"""Where virtio devices are: slots of PCI bus 0, or pages of their own; how they reach the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gasang import _engine, virtio
from gasang.bus import AddressSpace
from gasang.config import Transport
from gasang.device import Device, Saved
from gasang.devices.pci import HostBridge, PciFunction
from gasang.firmware.places import LOW_RAM_LIMIT, VIRTIO_FIRST_GSI, VIRTIO_LENGTH, VIRTIO_START
from gasang.machine.ram import Ram
from gasang.virtio.device import VirtioDevice
from gasang.virtio.pci import LENGTHS
from gasang.virtio.queue import QueueError

if TYPE_CHECKING:
    from gasang.virtio import VirtioMmio, VirtioPci

_WINDOW = LOW_RAM_LIMIT
"""Where BARs lie at first: the window that the ACPI tables declare begins there."""

_SLOT_LENGTH = 1 << 16
_WIDTH = 4


class Slots:
    """The functions of bus 0, by (bus, device, function); the host bridge is the first. With MMIO for their
    transport virtio devices are none."""

    def __init__(
        self,
        vm: _engine.Vm,
        space: AddressSpace,
        fail: Callable[[BaseException], None],
        *,
        synchronous: bool,
        transport: Transport = "pci",
    ) -> None:
        self.functions: dict[tuple[int, int, int], PciFunction] = {(0, 0, 0): HostBridge()}
        self._vm = vm
        self._space = space
        self._fail = fail
        self._synchronous = synchronous
        self._transport = transport
        self._ram = Ram(vm)
        self._virtio: list[VirtioPci | VirtioMmio] = []

    def plug(self, device: VirtioDevice) -> None:
        """Plug a virtio device into the next slot."""
        if self._transport == "mmio":
            self._plug_page(device)
            return
        number = len(self.functions)
        address = _WINDOW + _SLOT_LENGTH * number
        addresses = {bar: address + (_SLOT_LENGTH // 2) * (bar // 2) for bar in LENGTHS}
        slot = _Slot(self._vm, self._space, self._fail)
        function = virtio.VirtioPci(device, self._ram, slot, addresses, synchronous=self._synchronous)
        self.functions[0, number, 0] = function
        self._virtio.append(function)

    def _plug_page(self, device: VirtioDevice) -> None:
        number = len(self._virtio)
        page = _Page(Line(self._vm, VIRTIO_FIRST_GSI + number), self._fail)
        function = virtio.VirtioMmio(device, self._ram, page, synchronous=self._synchronous)
        self._space.attach(function, VIRTIO_START + VIRTIO_LENGTH * number, VIRTIO_LENGTH, width=_WIDTH)
        self._virtio.append(function)

    def discard(self, ranges: list[tuple[int, int]]) -> None:
        """Give the host back what guest memory takes there. Raises `QueueError` if any of it is not RAM."""
        try:
            self._vm.discard_memory(ranges)
        except _engine.EngineError as error:
            raise QueueError(str(error)) from error

    def pause(self) -> None:
        """Let devices finish what they are at, and do nothing until `resume`."""
        for function in self._virtio:
            function.pause()

    def resume(self) -> None:
        """Let them go on."""
        for function in self._virtio:
            function.resume()

    def state(self) -> list[Saved]:
        """What is volatile of the functions, in order, while they are paused."""
        return [function.state() for function in self._virtio]

    def set_state(self, states: list[Saved]) -> None:
        """Have that, of another machine with the same slots, while they are paused. Raises `ValueError`."""
        for function, state in zip(self._virtio, states, strict=True):
            function.set_state(state)

    def close(self) -> None:
        """The machine has ended: end the devices' threads, and give their files back."""
        while self._virtio:
            self._virtio.pop().close()


class Line:
    """An input of the engine's I/O APIC."""

    def __init__(self, vm: _engine.Vm, gsi: int) -> None:
        self._vm = vm
        self._gsi = gsi

    def set_level(self, high: bool) -> None:
        self._vm.set_interrupt_line(self._gsi, high)


class _Page:
    """A page of registers, as the device behind it sees it."""

    def __init__(self, interrupt: Line, fail: Callable[[BaseException], None]) -> None:
        self.interrupt = interrupt
        self.fail = fail


class _Slot:
    """One slot, as the function in it sees it."""

    def __init__(self, vm: _engine.Vm, space: AddressSpace, fail: Callable[[BaseException], None]) -> None:
        self._vm = vm
        self._space = space
        self.fail = fail
        self._starts: dict[int, int] = {}

    def map(self, bar: int, address: int, length: int, device: Device) -> None:
        self._space.attach(device, address, length, width=_WIDTH)
        self._starts[bar] = address

    def unmap(self, bar: int) -> None:
        self._space.detach(self._starts.pop(bar))

    def add_doorbell(self, address: int) -> int:
        return self._vm.add_doorbell(address)

    def remove_doorbell(self, address: int) -> None:
        self._vm.remove_doorbell(address)

    def send_message(self, address: int, data: int) -> None:
        self._vm.signal_msi(address, data)
