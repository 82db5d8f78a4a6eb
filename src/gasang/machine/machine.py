"""`Machine`: a virtual machine from boot to end, as a Python object."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from gasang import loaders, log, profile, storage
from gasang._engine import EngineError
from gasang.config import (
    Accelerator,
    Drive,
    Folder,
    Irqchip,
    MachineConfig,
    Network,
    RootFilesystem,
    Transport,
)
from gasang.errors import ConfigError, GasangError, GuestTimeout, MachineDied, SnapshotError
from gasang.machine.accelerator import Choice, choose
from gasang.machine.channel import Channel
from gasang.machine.code_log import CodeLogReader
from gasang.machine.ending import Ending
from gasang.machine.guest_access import GuestAccess
from gasang.machine.guest_parts import bios_of, drive_of, root_of, with_default_guest
from gasang.machine.network_access import NetworkAccess, new_mac
from gasang.machine.observation import SAMPLES_A_SECOND, Observation
from gasang.machine.once import Once
from gasang.machine.outcome import Outcome, Stopped
from gasang.machine.pc import Pc, new_vm
from gasang.machine.run_loop import RunLoop
from gasang.machine.saved import SavedMachine, check_clonable, check_drives
from gasang.machine.serial_ports import SerialPorts
from gasang.machine.standing_still import StandingStill
from gasang.units import format_size, parse_size

if TYPE_CHECKING:
    from datetime import datetime

    from gasang._engine import DescriptorTable, Segment, Vm
    from gasang.guest.agent import Agent
    from gasang.guest.vsock_agent import VsockAgent
    from gasang.loaders import BootRequest


class _Execution:
    """What executes a guest, which may change. Apart from the machine, that its threads do not hold it."""

    def __init__(self, choice: Choice) -> None:
        self.choice = choice

    def lose_kvm(self, reason: str) -> None:
        """KVM cannot go on: translation does."""
        self.choice = Choice("bt", reason)
        log.warn("%s; the guest goes on by binary translation", reason)


class Machine(GuestAccess, NetworkAccess, Observation):
    """A running virtual machine; `boot` makes one, and leaving a `with` block stops it.

    Every method may be called from any thread. No call outlives the machine: what waits for it raises
    `MachineDied` when it ends.
    """

    def __init__(self, config: MachineConfig, saved: SavedMachine | None = None) -> None:
        """Build the machine that `config` describes, load its kernel and start it; or go on where the one was
        that was `saved`.

        Raises `ConfigError`, `KernelError`, for the default guest `GuestImageError`, and `SnapshotError`.
        """
        self.config = config if config.kernel or config.bios else with_default_guest(config)
        # One date for every clock that the guest may ask.
        self.config = replace(self.config, date=self.config.first_date)
        seconds = 0.0
        if saved is not None:
            check_drives(self.config, saved.state.get("drives"))
            seconds = 0.0 if self.config.deterministic else saved.seconds
            self.config = replace(self.config, date=self.config.first_date + timedelta(seconds=seconds))
        self._execution = _Execution(choose(self.config))
        vm = _vm(self.config, self._execution.choice.name, saved)
        seed = self.config.seed if self.config.deterministic else None
        self._ports = SerialPorts(vm.serial_input, seed)
        self._debug_console = Channel("the debug console", lambda _: 0)
        self._ending = Ending(self._ports.judge)
        self._pc = Pc(vm, self.config, self._ending, self._debug_console.deliver)
        with ExitStack() as unless_started:
            unless_started.callback(self._pc.slots.close)
            self._pc.plug_drives(storage.open_image(drive) for drive in self.config.all_drives)
            if self.config.rng:
                self._pc.plug_entropy(_entropy(self.config))
            self._balloon = self._pc.plug_balloon() if self.config.balloon else None
            self._vsock_agent = self._plug_vsock(restored=saved is not None) if self.config.vsock else None
            self._plug_network(self._pc)
            for number, folder in enumerate(self.config.all_folders):
                self._pc.plug_folder(f"gasang{number}", folder)
            if self.config.ports:
                self._ending.watch(self._pc.plug_console(self.config.ports).close)
            if saved is None:
                self._load_kernel()
            else:
                self._load_saved(saved, seconds)
            unless_started.pop_all()
        if self.config.profile:
            self._set_profile(SAMPLES_A_SECOND)
        self._loop = RunLoop(
            self._pc.vcpus,
            self._pc.bus,
            self._ending,
            self._ports.deliver,
            until_answered=self._ports.until_answered if self.config.deterministic else None,
            standing_still=saved is not None,
            kvm_lost=self._execution.lose_kvm,
        )
        self._ending.watch(self._ports.close)
        if self._vsock_agent is not None:
            self._ending.watch(_agent_closer(self._vsock_agent, self._ports.console))
        self._ending.watch(_closer(self._debug_console))
        self._ending.watch(_caller(self._pc.slots.close))
        # Stops a machine that nobody refers to any more, and every machine before the interpreter exits:
        # its threads must be gone by then.
        self._reader = self._code_log_reader()
        self._finalizer = weakref.finalize(self, _stop, self._ending, self._loop, self._reader, Stopped())
        if self._reader is not None:
            self._reader.start()
        self._standing = threading.Lock()
        self._stands_still = saved is not None
        self._mending = self._first_duty(saved)
        self._loop.start()

    @classmethod
    def boot(
        cls,
        *,
        kernel: str | Path | None = None,
        bios: str | Path | None = None,
        initrd: str | Path | bytes | None = None,
        modules: Sequence[str] = (),
        append: str = "",
        memory: str | int = "512M",
        cpus: int = 1,
        drives: Sequence[Drive | str | Path] = (),
        rng: bool = False,
        balloon: bool = False,
        vsock: bool = False,
        folders: Sequence[Folder | str] = (),
        rootfs: RootFilesystem | str | Path | None = None,
        net: Network | str | None = None,
        ports: Sequence[str] = (),
        transport: Transport = "pci",
        cpu: str = "max",
        accel: Accelerator = "auto",
        irqchip: Irqchip = "own",
        switchable: bool = False,
        trace_blocks: bool = False,
        trace_exits: bool = False,
        trace_vmx: bool = False,
        profile: bool = False,
        count_blocks: bool = False,
        perf_map: bool = False,
        symbols: Sequence[str] = (),
        date: datetime | None = None,
        deterministic: bool = False,
        seed: int = 0,
    ) -> Self:
        """Start a machine; with no kernel named, the default guest.

        `memory` is a size such as "512M", or bytes as a number, `rootfs` a directory or a container image's
        file, `bios` a file or "seabios" for Debian's; strings in `drives` and `folders` are as on the command
        line. The rest is described at `MachineConfig`. Raises `ConfigError`, `KernelError`, and for the
        default guest `GuestImageError`.
        """
        root = (
            None
            if rootfs is None
            else root_of(rootfs, is_default=kernel is None and initrd is None and bios is None)
        )
        return cls(
            MachineConfig(
                kernel=Path(kernel) if kernel is not None else None,
                bios=None if bios is None else bios_of(bios),
                initrd=initrd,
                modules=tuple(modules),
                append=append,
                memory=parse_size(memory) if isinstance(memory, str) else memory,
                cpus=cpus,
                drives=tuple(drive_of(each) for each in drives),
                rng=rng,
                balloon=balloon,
                vsock=vsock or root is not None,
                folders=tuple(Folder.parse(each) if isinstance(each, str) else each for each in folders),
                rootfs=root,
                net=Network.parse(net) if isinstance(net, str) else net,
                ports=tuple(ports),
                transport=transport,
                cpu=cpu,
                accel=accel,
                irqchip=irqchip,
                switchable=switchable,
                trace_blocks=trace_blocks,
                trace_exits=trace_exits,
                trace_vmx=trace_vmx,
                profile=profile,
                count_blocks=count_blocks,
                perf_map=perf_map,
                symbols=tuple(symbols),
                date=date,
                deterministic=deterministic,
                seed=seed,
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        outcome = self.outcome
        state = "running" if outcome is None else outcome.reason
        cpus = f"{self.config.cpus} CPU" + ("s" if self.config.cpus > 1 else "")
        size = format_size(self.config.memory)
        return f"<Machine {self.protocol} {self.config.kernel or self.config.bios}, {size}, {cpus}, {state}>"

    def _repr_html_(self) -> str:
        from gasang.machine.notebook import picture_of  # noqa: PLC0415 - for notebooks alone

        return picture_of(self)

    @property
    def accelerator(self) -> Choice:
        """What executes the guest, and why: "kvm", "bt" or "interp"."""
        return self._execution.choice

    def switch_accelerator(self, accel: Literal["bt", "kvm"]) -> None:
        """Let the guest go on by another accelerator: with the same registers, memory and devices.

        Raises `ConfigError` for a machine that was not made `switchable`, and where KVM cannot be used.
        """
        with self._loop.paused():
            try:
                self._pc.vm.set_accelerator(accel)
            except EngineError as error:
                raise ConfigError(f"cannot switch to {accel}: {error}") from error
            self._execution.choice = Choice(accel, "as asked")

    @property
    def console(self) -> Channel:
        """The guest's first serial port, where its console is: read, write, `expect`."""
        return self._ports.console

    @property
    def debug_console(self) -> Channel:
        """What the guest writes to I/O port 0xe9; nothing can be sent to it."""
        return self._debug_console

    def serial(self, index: int) -> Channel:
        """Serial port 0 (the console) to 3. Ports 1 to 3 are the agent's once `agent` or `run` is used."""
        return self._ports.channels[index]

    def port(self, name: str) -> Channel:
        """A port of the virtio console: one of `ports`, or "hvc0". Raises `ConfigError`."""
        if self._pc.console is None:
            raise ConfigError("this machine has no ports: boot it with ports")
        return self._pc.console.find(name)

    @property
    def agent(self) -> Agent:
        """The client of the agent that the default guest runs."""
        self._await_mending()
        return self._ports.agent

    @property
    def vsock_agent(self) -> VsockAgent:
        """The client of the agent behind vsock: many commands at a time, terminals, files. Raises
        `ConfigError` for a machine without vsock."""
        if self._vsock_agent is None:
            raise ConfigError("this machine has no vsock: boot it with vsock=True")
        self._await_mending()
        return self._vsock_agent

    def pause(self) -> None:
        """Let the machine stand still, and its time: the guest notices nothing. Raises `ConfigError`."""
        with self._standing:
            if not self._stands_still:
                self._loop.pause()
                try:
                    self._pc.pause()
                except BaseException:
                    self._loop.resume()
                    raise
                self._stands_still = True

    def resume(self) -> None:
        """Let it go on, if it stands still. Raises `ConfigError`."""
        with self._standing:
            if self._stands_still:
                self._pc.resume()
                self._loop.resume()
                self._stands_still = False
        if self._mending is not None:
            self._mending.in_background()

    @contextmanager
    def standing_still(self) -> Iterator[StandingStill]:
        """Stand still meanwhile, for whoever saves the machine. Raises `SnapshotError` if it cannot."""
        if not self._stands_still:
            self._await_mending()
        if self.outcome is not None:
            raise SnapshotError(f"the machine has ended: {self.outcome.reason}")
        stood = self._stands_still
        try:
            self.pause()
        except ConfigError as error:
            raise SnapshotError(str(error)) from error
        try:
            yield StandingStill(self._pc, self._ports, self.config, self.protocol)
        finally:
            if not stood:
                self.resume()

    def snapshot(self, path: str | Path) -> None:
        """Write the machine to a file, from which `restore` makes machines that go on here.

        It stands still meanwhile, and goes on. The file is whole or what was there before. Disks are not in
        it. Raises `SnapshotError`.
        """
        from gasang.machine.snapshots import save  # noqa: PLC0415 - slow to load, and rarely needed

        save(self, path)

    @classmethod
    def restore(
        cls,
        path: str | Path,
        *,
        accel: Accelerator | None = None,
        hostname: str | None = None,
        net: Network | None = None,
        folders: Sequence[Folder] | None = None,
        paused: bool = False,
    ) -> Machine:
        """A machine that goes on where the one in the file was; RAM is read when it is needed.

        Before any command of ours runs its clock is set, its random numbers are renewed and, with vsock, it
        gets a machine-id of its own, a name, `hostname` or a new one, and another MAC. Connections are
        broken. `net` and `folders` are in the place of what the machine had, if it had some. If `paused`,
        it stands still until `resume`. Raises `SnapshotError`.
        """
        from gasang.machine.snapshots import restore  # noqa: PLC0415 - slow to load, and rarely needed

        machine = restore(path, accel=accel, hostname=hostname, net=net, folders=folders)
        if not paused:
            machine.resume()
        return machine

    def fork(self, count: int = 1, *, paused: bool = False) -> list[Machine]:
        """So many machines that go on where this one is, as if restored from a snapshot of it; so does this
        one. They share what memory they do not write. If `paused`, they stand still until `resume`.

        Raises `ConfigError`, and `SnapshotError`, for a machine that writes a disk too.
        """
        if count < 1:
            raise ConfigError(f"fork {count}: make one or more")
        check_clonable(self.config)
        clones: list[Machine] = []
        with self.standing_still() as still:
            state = still.state()
            with still.frozen_memory() as descriptor:
                try:
                    for _ in range(count):
                        clones.append(Machine(self.config, SavedMachine(state, (descriptor, 0))))
                    for clone in () if paused else clones:
                        clone.resume()
                except BaseException:
                    for clone in clones:
                        clone.stop()
                    raise
        return clones

    def _load_saved(self, saved: SavedMachine, seconds: float) -> None:
        """Be the machine that was saved, and go on."""
        try:
            self.protocol = str(saved.state["protocol"])
            self._pc.set_state(saved.state["machine"], seconds)
            self._ports.set_state(saved.state["ports"])
        except (KeyError, TypeError, ValueError) as error:
            raise SnapshotError(f"its state is none: {error!r}") from error

    def _first_duty(self, saved: SavedMachine | None) -> Once | None:
        """What the guest's agent is to do before anybody else uses it."""
        if saved is not None and not self.config.deterministic:
            return Once(partial(self._complaining, partial(self._mend, saved.hostname)))
        if saved is not None or not self.config.folders or self._vsock_agent is None:
            return None
        mounting = Once(partial(self._complaining, self._mount_folders))
        mounting.in_background()
        return mounting

    def _complaining(self, duty: Callable[[], None]) -> None:
        """Do it, or say why not: whoever uses the guest next has not asked for it."""
        try:
            duty()
        except GasangError as error:
            if self.outcome is None:
                log.warn("the guest is not as it should be: %s", str(error))
            error.__traceback__ = None  # The agent keeps the error, and would keep this machine by it.

    def _await_mending(self) -> None:
        mending = self._mending
        if mending is not None:
            mending.wait()
            self._mending = None

    def _mend(self, hostname: str | None) -> None:
        """What a guest has that is another's: clock, random numbers, names. Raises `GasangError`."""
        from gasang.guest.mending import mend, mount  # noqa: PLC0415 - guest is above machine

        serial = self._ports.agent if self._vsock_agent is None and self._ports.agent_is_up else None
        mend(self._vsock_agent, serial, hostname, new_mac(self.config))
        if self._vsock_agent is not None:
            mount(self._vsock_agent, self.config.folders)

    @property
    def outcome(self) -> Outcome | None:
        """How the machine ended; None while it runs."""
        return self._ending.outcome

    @property
    def exit_code(self) -> int | None:
        """What a shell would be told about how the machine ended; None while it runs."""
        outcome = self.outcome
        return None if outcome is None else outcome.exit_code

    def wait(self, timeout: float | None = None) -> Outcome:
        """Wait until the machine ends. Raises `GuestTimeout` after `timeout` seconds; it runs on then."""
        outcome = self._ending.wait(timeout)
        if outcome is None:
            raise GuestTimeout(f"the machine did not end within {timeout:g} seconds")
        return outcome

    def stop(self, outcome: Outcome = Stopped()) -> None:  # noqa: B008 - an immutable value
        """End the machine, if it runs, with `outcome`; wait until its processors have left the guest."""
        _stop(self._ending, self._loop, self._reader, outcome)

    @property
    def balloon(self) -> int:
        """Bytes that the guest has given up, if it has a balloon."""
        return 0 if self._balloon is None else self._balloon.actual

    def set_balloon(self, size: str | int) -> None:
        """Ask the guest to give up so much memory in all; it does when it can. Raises `ConfigError`."""
        if self._balloon is None:
            raise ConfigError("this machine has no balloon: boot it with balloon (--balloon)")
        wanted = parse_size(size) if isinstance(size, str) else size
        if not 0 <= wanted <= self.config.memory:
            raise ConfigError(f"a balloon of {wanted} bytes in a machine of {self.config.memory}")
        self._balloon.inflate_to(wanted)

    def press_power_button(self) -> None:
        """Ask the guest to shut down, as the power button of a PC does."""
        with self._loop.paused():
            self._pc.power.press_power_button()

    def registers(self, cpu: int = 0) -> Mapping[str, int | Segment | DescriptorTable]:
        """Every register of a processor, by its manual's name; a running machine is held meanwhile."""
        with self._loop.paused():
            return self._pc.vcpus[cpu].registers()

    def state_hash(self) -> str:
        """64 bits in hexadecimal that tell this state of the engine from others.

        That is processors, memory, chipset and virtual time. A running machine is held meanwhile; where, is
        up to the host, unless the machine is deterministic and its agent waits for a command.
        """
        with self._loop.paused():
            return f"{self._pc.vm.state_digest():016x}"

    def _plug_vsock(self, *, restored: bool) -> VsockAgent:
        from gasang.guest.vsock_agent import READY_PORT, VsockAgent  # noqa: PLC0415 - guest is above machine

        device = self._pc.plug_vsock()
        # One that was restored has greeted another.
        return VsockAgent(device.dial, None if restored else device.listen(READY_PORT))

    def _mount_folders(self) -> None:
        """Have the default guest mount its folders, once it is up. Raises `GasangError`."""
        from gasang.guest.mending import mount  # noqa: PLC0415 - guest is above machine

        assert self._vsock_agent is not None
        self._vsock_agent.wait_ready()
        mount(self._vsock_agent, self.config.folders)

    def _load_kernel(self) -> None:
        """Load what the configuration names; the host's copy of it is gone when this returns."""
        bios = self.config.bios
        image = loaders.load_bios(bios) if bios is not None else loaders.load(self._boot_request())
        self.protocol = image.protocol
        self._pc.load(image)

    def _boot_request(self) -> BootRequest:
        from gasang.machine.boot_files import open_boot_files  # noqa: PLC0415 - slow to load, and not always needed

        assert self.config.kernel is not None, "the default guest names one"
        return open_boot_files(
            self.config, self.config.kernel, self._pc.memory_map, self._pc.tables.rsdp_address
        )

    def _code_log_reader(self) -> CodeLogReader | None:
        if not self.config.perf_map:
            return None
        return CodeLogReader(
            self._pc.vm.take_code_log, profile.PerfMap(self._guest_symbols()).add, self._ending
        )


def _vm(config: MachineConfig, accel: str, saved: SavedMachine | None) -> Vm:
    if saved is None:
        return new_vm(config, accel)
    return new_vm(replace(config, cpu=saved.processor(config.cpu)), accel, saved.memory_image)


def _entropy(config: MachineConfig) -> Callable[[int], bytes]:
    from random import Random  # noqa: PLC0415 - slow to load, and not always needed

    return Random(config.seed).randbytes if config.deterministic else os.urandom


def _caller(act: Callable[[], None]) -> Callable[[Outcome], None]:
    return lambda _: act()


def _agent_closer(agent: VsockAgent, console: Channel) -> Callable[[Outcome], None]:
    return lambda outcome: agent.close(MachineDied(outcome.reason, console.tail()))


def _closer(channel: Channel) -> Callable[[Outcome], None]:
    return lambda outcome: channel.close(outcome.reason, "")


def _stop(ending: Ending, loop: RunLoop, reader: CodeLogReader | None, outcome: Outcome) -> None:
    ending.end(outcome)
    loop.join()
    if reader is not None:
        reader.join()
