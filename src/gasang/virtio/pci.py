"""The PCI transport (Virtio 1.2, 4.1): a function's configuration space, and registers in two BARs.

BAR 0 has the structures that the capabilities name, a page each; BAR 2 the table of MSI-X. There is no INTx:
every driver of such devices has MSI-X.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Protocol

from gasang.device import Device, MemoryInPlace, Saved
from gasang.virtio.device import VirtioDevice
from gasang.virtio.msix import LENGTH as MSIX_LENGTH
from gasang.virtio.msix import PENDING, TABLE, MsiX
from gasang.virtio.registers import NOTIFY_STRIDE, Registers

_VENDOR, _FIRST_DEVICE = 0x1AF4, 0x1040
_SUBSYSTEM = 0x1100
_CAPABILITIES = 1 << 4
_MEMORY, _BUS_MASTER = 1 << 1, 1 << 2
_COMMAND, _STATUS, _BARS, _CAPABILITY_POINTER = 0x04, 0x06, 0x10, 0x34

COMMON, ISR, DEVICE, NOTIFY, REGISTERS_LENGTH = 0x0000, 0x1000, 0x2000, 0x3000, 0x4000
_REGISTERS_BAR, _MSIX_BAR = 0, 2
LENGTHS = {_REGISTERS_BAR: REGISTERS_LENGTH, _MSIX_BAR: MSIX_LENGTH}
"""Bytes of each BAR."""

_COMMON_CFG, _NOTIFY_CFG, _ISR_CFG, _DEVICE_CFG, _PCI_CFG = 1, 2, 3, 4, 5
_COMMON_LENGTH = 0x40


class PciSlot(Protocol):
    """Where a function is plugged in."""

    def map(self, bar: int, address: int, length: int, device: Device) -> None:
        """Let `device` answer at these physical addresses, and nowhere else for this BAR."""

    def unmap(self, bar: int) -> None:
        """Let nobody answer for it."""

    def add_doorbell(self, address: int) -> int:
        """An event counter (eventfd(2)) of writes to this address, which the caller closes."""

    def remove_doorbell(self, address: int) -> None: ...

    def send_message(self, address: int, data: int) -> None:
        """Write `data` to `address`: an interrupt."""

    def fail(self, error: BaseException) -> None:
        """An error of ours in a thread of ours: the machine cannot go on."""


class VirtioPci:
    """A virtio device as a PCI function, its BARs at `addresses` at first.

    If it is `synchronous`, requests are done while the driver rings; otherwise a thread does them.
    """

    def __init__(
        self,
        device: VirtioDevice,
        memory: MemoryInPlace,
        slot: PciSlot,
        addresses: dict[int, int],
        *,
        synchronous: bool = False,
    ) -> None:
        # static configuration
        self._device_id = device.device_id
        # wiring
        self._slot = slot
        self._msix = MsiX(device.queues + 1, slot.send_message)
        self._registers = Registers(
            device,
            memory,
            self._msix.interrupt,
            slot.fail,
            add_bell=None if synchronous else self._add_bell,
            remove_bell=self._remove_bell,
        )
        self._bars: dict[int, Device] = {
            _REGISTERS_BAR: _RegistersBar(self._registers),
            _MSIX_BAR: self._msix,
        }
        # volatile state
        self._mapped: dict[int, int] = {}
        self._space, self._writable, self._window = _configuration_space(device, self._msix)
        for bar, address in addresses.items():
            self._set(_BARS + 4 * bar, 4, address)

    def read_config(self, register: int, size: int) -> int:
        if self._window <= register < self._window + 4:
            self._through_window(lambda bar, offset, length: self._keep(bar.read(offset, length)))
        return self._get(register, size)

    def write_config(self, register: int, size: int, value: int) -> None:
        for index, byte in enumerate(value.to_bytes(size, "little")):
            writable = self._writable[register + index]
            self._space[register + index] = self._space[register + index] & ~writable | byte & writable
        self._msix.control = self._get(self._msix_control, 2)
        if register < _COMMAND + 2 or _BARS <= register < _BARS + 24:
            self._place()
        if self._window <= register < self._window + 4:
            data = self._get(self._window, 4)
            self._through_window(lambda bar, at, length: bar.write(at, length, data & (1 << 8 * length) - 1))

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
            "space": self._space.hex(),
            "msix": self._msix.state(),
            "registers": self._registers.state(),
        }

    def set_state(self, state: Saved) -> None:
        """Have what another function of the same kind had, while it is paused. Raises `ValueError`."""
        space = bytes.fromhex(state["space"])
        if state["device_id"] != self._device_id or len(space) != len(self._space):
            raise ValueError(f"a device {state['device_id']} in the place of a {self._device_id}")
        for at, (byte, writable) in enumerate(zip(space, self._writable, strict=True)):
            self._space[at] = self._space[at] & ~writable | byte & writable
        self._msix.set_state(state["msix"])
        self._registers.set_state(state["registers"])
        self._place()

    def close(self) -> None:
        """End the thread, and give the device's resources back."""
        self._registers.close()
        self._msix.close()

    @property
    def _msix_control(self) -> int:
        return self._get(_CAPABILITY_POINTER, 1) + 2

    def _get(self, register: int, size: int) -> int:
        return int.from_bytes(self._space[register : register + size], "little")

    def _set(self, register: int, size: int, value: int) -> None:
        self._space[register : register + size] = value.to_bytes(size, "little")

    def _place(self) -> None:
        """Map each BAR where it is now, if the function answers to memory accesses."""
        enabled = self._get(_COMMAND, 2) & _MEMORY
        for bar, length in LENGTHS.items():
            address = self._get(_BARS + 4 * bar, 4) & ~0xF
            wanted = address if enabled else None
            if self._mapped.get(bar) == wanted:
                continue
            if bar == _REGISTERS_BAR:
                self._registers.silence()
            if self._mapped.pop(bar, None) is not None:
                self._slot.unmap(bar)
            if wanted is not None:
                self._map(bar, wanted, length)

    def _map(self, bar: int, address: int, length: int) -> None:
        try:
            self._slot.map(bar, address, length, self._bars[bar])
        except ValueError:
            return  # Where another device is: the driver's own mistake.
        self._mapped[bar] = address
        if bar == _REGISTERS_BAR:
            self._registers.listen()

    def _add_bell(self, queue: int) -> int:
        return self._slot.add_doorbell(self._bell_address(queue))

    def _remove_bell(self, queue: int) -> None:
        self._slot.remove_doorbell(self._bell_address(queue))

    def _bell_address(self, queue: int) -> int:
        return self._mapped[_REGISTERS_BAR] + NOTIFY + NOTIFY_STRIDE * queue

    def _through_window(self, access: Callable[[Device, int, int], None]) -> None:
        """Access a register by configuration space (4.1.4.9)."""
        bar, offset, length = struct.unpack_from("<B3xII", self._space, self._window - 12)
        device = self._bars.get(bar)
        if device and length in (1, 2, 4) and offset % length == 0 and offset + length <= LENGTHS[bar]:
            access(device, offset, length)

    def _keep(self, value: int) -> None:
        self._set(self._window, 4, value)


class _RegistersBar:
    """BAR 0: which structure an offset belongs to."""

    def __init__(self, registers: Registers) -> None:
        self._registers = registers

    def read(self, offset: int, size: int) -> int:
        structure, at = offset & ~0xFFF, offset & 0xFFF
        match structure:
            case _ if structure == COMMON:
                return self._registers.read_common(at, size)
            case _ if structure == DEVICE:
                return self._registers.read_config(at, size)
            case _:
                return 0

    def write(self, offset: int, size: int, value: int) -> None:
        structure, at = offset & ~0xFFF, offset & 0xFFF
        if structure == COMMON:
            self._registers.write_common(at, size, value)
        elif structure == DEVICE:
            self._registers.write_config(at, size, value)
        elif structure == NOTIFY and at % NOTIFY_STRIDE == 0:
            self._registers.notify(at // NOTIFY_STRIDE)


def _configuration_space(device: VirtioDevice, msix: MsiX) -> tuple[bytearray, bytearray, int]:
    """The 256 bytes, which of their bits can be written, and where the window to registers is."""
    space, writable = bytearray(256), bytearray(256)
    identity = _FIRST_DEVICE + device.device_id
    struct.pack_into("<HHHHI", space, 0, _VENDOR, identity, 0, _CAPABILITIES, device.pci_class << 8 | 1)
    struct.pack_into("<HH", space, 0x2C, _VENDOR, _SUBSYSTEM + device.device_id)
    struct.pack_into("<H", writable, _COMMAND, _MEMORY | _BUS_MASTER | 1 << 10)
    writable[0x3C] = 0xFF
    for bar, length in LENGTHS.items():
        struct.pack_into("<I", writable, _BARS + 4 * bar, -length & 0xFFFFFFFF)
    capabilities = [
        struct.pack("<HII", msix.control, TABLE | _MSIX_BAR, PENDING | _MSIX_BAR),
        _structure(_COMMON_CFG, COMMON, _COMMON_LENGTH),
        _structure(_ISR_CFG, ISR, 1),
        _structure(_DEVICE_CFG, DEVICE, 0x100),
        _structure(_NOTIFY_CFG, NOTIFY, NOTIFY_STRIDE * device.queues, struct.pack("<I", NOTIFY_STRIDE)),
        _structure(_PCI_CFG, 0, 0, bytes(4)),
    ]
    at = 0x40
    link = _CAPABILITY_POINTER
    for number, body in enumerate(capabilities):
        space[link] = at
        space[at], link = 0x11 if number == 0 else 0x09, at + 1
        space[at + 2 : at + 2 + len(body)] = body
        last, at = at, at + (2 + len(body) + 3 & ~3)
    struct.pack_into("<H", writable, 0x40 + 2, 0xC000)
    writable[last + 4] = 0xFF
    writable[last + 8 : last + 20] = b"\xff" * 12
    return space, writable, last + 16


def _structure(kind: int, offset: int, length: int, more: bytes = b"") -> bytes:
    """struct virtio_pci_cap behind its first two bytes (4.1.4)."""
    return struct.pack("<BBB3xII", 16 + len(more), kind, _REGISTERS_BAR, offset, length) + more
