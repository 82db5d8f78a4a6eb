"""What a PC contains, and where.

The engine has RAM, processors, interrupt controllers, timers and serial ports. The rest is attached here:

    ports 0x60, 0x64    keyboard controller          port 0xe9           debug console
    ports 0x70-0x71     clock and its memory         port 0xf4           isa-debug-exit
    ports 0x510-0x51b   firmware configuration       ports 0x600-0x605   ACPI PM1a event and control
    ports 0xcf8-0xcff   PCI configuration, and the reset control register at 0xcf9

and behind the latter, in slots, a virtio disk for each drive.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from gasang import _engine, virtio
from gasang.bus import Bus
from gasang.config import Folder, MachineConfig
from gasang.device import Savable, Saved
from gasang.devices.clock import RealTimeClock, memory_size_bytes
from gasang.devices.debug import DebugConsole, DebugExit
from gasang.devices.fw_cfg import FirmwareConfiguration
from gasang.devices.keyboard_controller import DATA, STATUS, KeyboardController
from gasang.devices.pci import PciConfiguration
from gasang.devices.power import PowerManagement
from gasang.errors import ConfigError, KernelError, SnapshotError
from gasang.firmware.places import PM1_EVENT_PORT, SCI_IRQ, SLEEP_TYPE_OFF
from gasang.machine import outcome
from gasang.machine.ending import Ending
from gasang.machine.ram import Ram
from gasang.machine.slots import Line, Slots
from gasang.storage import Image

if TYPE_CHECKING:
    from gasang.firmware.memory_map import MemoryRange
    from gasang.firmware.tables import AcpiTables
    from gasang.loaders import BootImage
    from gasang.machine.console_ports import ConsolePorts
    from gasang.virtio import Balloon, VsockDevice
    from gasang.virtio.net import Cable

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PIECE = 4 << 20
"""Memory is written in pieces of so many bytes, each of which is copied once more on its way."""


class Pc:
    """The hardware of one machine: an engine's `vm`, and a `bus` with the other devices."""

    def __init__(
        self,
        vm: _engine.Vm,
        config: MachineConfig,
        ending: Ending,
        debug_output: Callable[[bytes], None],
    ) -> None:
        self.vm = vm
        self.vcpus = [self.vm.vcpu(index) for index in range(config.cpus)]
        for vcpu in self.vcpus:
            if config.trace_vmx:
                vcpu.watch_vmx(True)
            if config.trace_exits:
                vcpu.watch_exits(True)
        self._config = config
        self.power = PowerManagement(
            Line(self.vm, SCI_IRQ), lambda: ending.end(outcome.PowerOff()), SLEEP_TYPE_OFF
        )
        self.console: ConsolePorts | None = None
        self.bus = Bus()
        self.slots = Slots(
            self.vm,
            self.bus.memory,
            lambda error: ending.end(outcome.EngineFailed(error)),
            synchronous=config.deterministic,
            transport=config.transport,
        )
        self._attach_devices(config, ending, debug_output)

    def plug_drives(self, images: Iterable[Image]) -> None:
        """Plug a disk in for each image, which is its own from now on."""
        for number, image in enumerate(images):
            self.slots.plug(virtio.BlockDevice(image, f"gasang-{number}"))

    def plug_entropy(self, source: Callable[[int], bytes]) -> None:
        """Plug a device in that gives the guest random bytes."""
        self.slots.plug(virtio.EntropyDevice(source))

    def plug_balloon(self) -> Balloon:
        """Plug a balloon in."""
        balloon = virtio.Balloon(self.slots.discard)
        self.slots.plug(balloon)
        return balloon

    def plug_vsock(self) -> VsockDevice:
        """Plug a socket device in."""
        device = virtio.VsockDevice()
        self.slots.plug(device)
        return device

    def plug_folder(self, tag: str, folder: Folder) -> None:
        """Plug a file system device in, under a tag. Raises `ConfigError`."""
        from gasang.machine.folders import folder_device  # noqa: PLC0415 - rarely needed

        self.slots.plug(folder_device(tag, folder))

    def plug_network(self, cable: Cable, mac: bytes) -> None:
        """Plug a network device in, which has the cable from now on."""
        self.slots.plug(virtio.NetDevice(cable, mac))

    def plug_console(self, names: Sequence[str]) -> ConsolePorts:
        """Plug a console in that has such ports."""
        from gasang.machine.console_ports import ConsolePorts  # noqa: PLC0415 - rarely needed

        self.console = ConsolePorts(names)
        self.slots.plug(self.console.device)
        return self.console

    def pause(self) -> None:
        """Stand still, while the processors are outside of the guest: time does not pass.

        Raises `ConfigError`.
        """
        self.slots.pause()
        try:
            self.vm.hold()
        except _engine.EngineError as error:
            self.slots.resume()
            raise ConfigError(f"this machine cannot stand still now: {error}") from error

    def resume(self) -> None:
        """Go on. Raises `ConfigError`."""
        try:
            self.vm.release()
        except _engine.EngineError as error:
            raise ConfigError(f"this machine cannot go on: {error}") from error
        self.slots.resume()

    def state(self) -> Saved:
        """What is volatile but for RAM, while it stands still."""
        return {
            "engine": json.loads(self.vm.save()),
            "devices": {name: device.state() for name, device in self._savable.items()},
            "slots": self.slots.state(),
            "console": None if self.console is None else self.console.state(),
        }

    def set_state(self, state: Saved, seconds: float) -> None:
        """Have what another PC of the same configuration had, and stand still; so many `seconds` have passed
        of which the guest knows nothing.

        Raises `SnapshotError` for what it cannot have.
        """
        try:
            self.slots.pause()
            self.vm.hold()
            self.vm.load(json.dumps(state["engine"]))
            for name, device in self._savable.items():
                device.set_state(state["devices"][name])
            self.slots.set_state(state["slots"])
            if self.console is not None:
                self.console.set_state(state["console"])
        except _engine.EngineError as error:
            raise SnapshotError(str(error)) from error
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise SnapshotError(f"the state of a device is none: {error!r}") from error
        self._real_time_clock.step(seconds)

    def load(self, image: BootImage) -> None:
        """Write firmware's tables and a boot image to memory, and set processor 0 to enter it.

        Raises `KernelError` if no processor can be in the state that the image asks for.
        """
        from gasang.machine.entry import engine_registers  # noqa: PLC0415 - as above

        if self._config.bios is None:
            from gasang.firmware.bios import bios_remains  # noqa: PLC0415 - as above

            for address, content in bios_remains().items():
                self._write(address, content)
        self._write(self.tables.address, self.tables.content)
        for segment in image.segments:
            self._write(segment.address, segment.data)
        try:
            self.vcpus[0].set_registers(**engine_registers(image.registers))
        except _engine.EngineError as error:
            raise KernelError(f"this kernel cannot be entered: {error}") from error

    @cached_property
    def memory_map(self) -> tuple[MemoryRange, ...]:
        """What firmware says of RAM."""
        from gasang.firmware.memory_map import memory_map  # noqa: PLC0415 - slow to load; a restored one has it

        return memory_map(self._config.memory, has_bios=self._config.bios is not None)

    @cached_property
    def tables(self) -> AcpiTables:
        """What firmware says of the hardware."""
        from gasang.firmware.memory_map import FIRMWARE_START, tables_below  # noqa: PLC0415 - as above
        from gasang.firmware.tables import acpi_tables  # noqa: PLC0415 - as above

        config = self._config
        address = FIRMWARE_START if config.bios is None else tables_below(config.memory)
        by_mmio = config.virtio_devices if config.transport == "mmio" else 0
        return acpi_tables(config.cpus, address, virtio_devices=by_mmio)

    def _attach_devices(
        self, config: MachineConfig, ending: Ending, debug_output: Callable[[bytes], None]
    ) -> None:
        def reset() -> None:
            ending.end(outcome.Reboot())

        ports = self.bus.ports
        keyboard = KeyboardController(reset)
        firmware = self._firmware_configuration(config)
        pci = PciConfiguration(self.slots.functions, reset)
        self._real_time_clock = self._clock(config)
        self._savable: dict[str, Savable] = {
            "keyboard_controller": keyboard,
            "clock": self._real_time_clock,
            "firmware_configuration": firmware,
            "power": self.power,
            "pci": pci,
        }
        ports.attach(keyboard, 0x60, 1, offset=DATA)
        ports.attach(keyboard, 0x64, 1, offset=STATUS)
        ports.attach(self._real_time_clock, 0x70, 2)
        ports.attach(DebugConsole(debug_output), 0xE9, 1)
        ports.attach(DebugExit(lambda code: ending.end(outcome.DebugExit(code))), 0xF4, 4, width=4)
        ports.attach(firmware, 0x510, 12, width=4)
        ports.attach(self.power, PM1_EVENT_PORT, 6)
        ports.attach(pci, 0xCF8, 8, width=4)

    def _clock(self, config: MachineConfig) -> RealTimeClock:
        memory = memory_size_bytes(config.memory, config.cpus)
        return RealTimeClock(self.vm.virtual_time, config.first_date, memory)

    def _firmware_configuration(self, config: MachineConfig) -> FirmwareConfiguration:
        files: dict[str, bytes] = {}
        if config.bios is not None:
            from gasang.firmware.seabios import configuration_files  # noqa: PLC0415 - as above

            files = configuration_files(self.memory_map, self.tables)
        return FirmwareConfiguration(Ram(self.vm), config.memory, config.cpus, files)

    def _write(self, address: int, data: bytes | memoryview) -> None:
        view = memoryview(data)
        for start in range(0, len(view), _PIECE):
            self.vm.write_memory(address + start, bytes(view[start : start + _PIECE]))


def new_vm(config: MachineConfig, accel: str, memory_image: tuple[int, int] | None = None) -> _engine.Vm:
    """The engine's part of a PC, executed by `accel`; RAM begins as what a file has at an offset, if given.

    Raises `ConfigError` for a processor or memory that it cannot give.
    """
    try:
        return _engine.Vm(
            memory=config.memory,
            cpus=config.cpus,
            accel=accel,
            cpu=config.cpu,
            kvm_may_fail=config.accel == "auto",
            switchable=config.switchable,
            irqchip=config.irqchip,
            trace_blocks=config.trace_blocks,
            log_code=config.perf_map,
            count_blocks=config.count_blocks,
            clock="instructions" if config.deterministic else "host",
            wall_clock=(config.first_date - _EPOCH) // timedelta(microseconds=1) * 1000,
            seed=config.seed,
            memory_image=memory_image,
        )
    except _engine.EngineError as error:
        raise ConfigError(str(error)) from error
