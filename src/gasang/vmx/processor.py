"""A processor in VMX operation whose hypervisor is a Python program."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Literal, Self

from gasang._engine import (
    EngineError,
    Halted,
    Interrupted,
    MmioRead,
    MmioWrite,
    PioRead,
    PioWrite,
    SerialOutput,
    Shutdown,
    Vm,
    VmxOutcome,
    VmxTransition,
    vmx_capabilities,
)
from gasang._engine import (
    VmExit as EngineExit,
)
from gasang.errors import ConfigError, VmEntryFailed, VmInstructionError, VmxError, VmxTimeout
from gasang.units import format_size, parse_size
from gasang.vmx.heartbeat import HEARTBEAT
from gasang.vmx.memory import PAGE, Memory, Pages
from gasang.vmx.modes import Mode
from gasang.vmx.names import CHECKS, FIELDS, INSTRUCTION_ERRORS
from gasang.vmx.registers import Registers
from gasang.vmx.structures import build_host
from gasang.vmx.vm_exit import VmExit, read_exit
from gasang.vmx.vmcs import Vmcs

_STRUCTURES = 4 << 20
"""Bytes above the guest's RAM for VMCSs, EPT and bitmaps: 500 VMCSs with small guests."""
_LEAST_MEMORY = 64 << 10
_MOST_MEMORY = 3 << 30
_HOLE = (0xA0000, 0xC0000)
_LARGE_PAGE = 2 << 20
_BASIC = 0x480
"""IA32_VMX_BASIC, whose lowest 31 bits are the VMCS revision identifier (SDM vol. 3, A.1)."""
_INVEPT_SINGLE_CONTEXT = 1


_HALTED = "the guest halts for ever: set execution.hlt_exiting, or let an event wake it"
_STANDSTILL = 0.5
"""Seconds of the host's without anything new, after which a guest is taken to halt for ever: where time
counts instructions, there is nothing else that it could wait for."""


class Processor:
    """A processor in VMX root operation: VMXON when it is made, VMXOFF when it is closed.

    Its guests share `memory` bytes of RAM ("2M", or a number of bytes) from physical address 0; under the EPT
    that a VMCS has at first, guest-physical addresses are physical. The hypervisor's own structures lie
    above, where no guest's EPT leads. A guest without EPT uses physical addresses: what keeps it out are only
    its page tables, which in 64-bit mode end with its RAM.

    `accel` is "bt" (translator) or "interp"; `cpu` is MODEL[,+feature,-feature]…. Time counts instructions, a
    nanosecond each, so that every run is the same run. One thread at a time may use a processor.

    A guest's accesses to I/O ports that cause no VM exit reach the serial ports, timers and interrupt
    controllers of a PC; where there is no device, reads give all ones and writes are lost, in memory too.

    Raises `ConfigError` for memory that cannot be had and for a processor without VMX.
    """

    def __init__(
        self, memory: str | int = "2M", *, accel: Literal["bt", "interp"] = "bt", cpu: str = "max"
    ) -> None:
        size = parse_size(memory) if isinstance(memory, str) else memory
        if size % PAGE or not _LEAST_MEMORY <= size <= _MOST_MEMORY - _STRUCTURES - _LARGE_PAGE:
            raise ConfigError(f"memory of {format_size(size)}: a guest has pages of 4K, from 64K to 3065M")
        above = -(-size // _LARGE_PAGE) * _LARGE_PAGE
        end = above + _STRUCTURES
        try:
            self._capabilities = vmx_capabilities(cpu)
            self._vm = Vm(memory=end, accel=accel, cpu=cpu, clock="instructions", vm_exits=True)
        except EngineError as error:
            raise ConfigError(str(error)) from error
        if not self._capabilities:
            raise ConfigError(f"processor {cpu} has no VMX: leave out -vmx, or take max")
        self._vcpu = self._vm.vcpu(0)
        self.memory = Memory(self._vm, size)
        self.pages = Pages(self._vm, above, end)
        self.serial_output = bytearray()
        self._host = build_host(self.pages, self._vcpu)
        self.registers = Registers(self._vcpu)
        self._current: Vmcs | None = None
        self._running: Vmcs | None = None
        self._closed = False
        self.execute("vmxon", self._region())
        self.fields = self._known_fields()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = (
            "closed" if self._closed else "in VMX non-root operation" if self._running else "in VMX operation"
        )
        return f"<Processor with {format_size(len(self.memory))}, {state}>"

    def close(self) -> None:
        """VMXOFF. A guest that has not exited is left where it is."""
        if not self._closed and self._running is None:
            self.execute("vmxoff")
        self._closed = True

    def vmcs(self, mode: Mode = "real") -> Vmcs:
        """A new VMCS (VMCLEAR, VMPTRLD) that can be launched at once: an unrestricted guest under EPT, in
        `mode` as `Vmcs.set_mode` has it; set `guest.rip` first.

        Raises `VmxError` if there is no room for more.
        """
        region = self._region()
        self.execute("vmclear", region)
        vmcs = Vmcs(self, region)
        for start, end in self._ram():
            vmcs.ept.map(start, start, end - start)
        vmcs.reset(self._host, self._capabilities)
        if mode != "real":
            vmcs.set_mode(mode)
        return vmcs

    def launch(self, vmcs: Vmcs, *, timeout: float | None = None, instructions: int | None = None) -> VmExit:
        """VMLAUNCH: enter a guest for the first time, and run it to its next VM exit, which is the value.

        Raises `VmEntryFailed` with the check that the VMCS fails, `VmInstructionError` (4: it is launched
        already), and as `run`.
        """
        return self._enter("vmlaunch", vmcs, timeout, instructions)

    def resume(self, vmcs: Vmcs, *, timeout: float | None = None, instructions: int | None = None) -> VmExit:
        """VMRESUME: enter a guest again, and run it to its next VM exit, which is the value.

        Raises `VmEntryFailed` with the check that the VMCS fails, `VmInstructionError` (5: it is not launched
        yet), and as `run`.
        """
        return self._enter("vmresume", vmcs, timeout, instructions)

    def run(self, *, timeout: float | None = None, instructions: int | None = None) -> VmExit:
        """Go on with a guest after a `VmxTimeout`, to its next VM exit.

        `timeout` is in seconds of the host's, `instructions` counts the guest's. Raises `VmxTimeout` when
        they are spent: the guest is then between two instructions, and nothing but `run` and `registers` is
        possible. Raises `VmxError` if the guest halts for ever without a VM exit, or none was entered.
        """
        vmcs = self._running
        if vmcs is None:
            raise VmxError("no guest has been entered: launch or resume one")
        with HEARTBEAT.reaching(self._vcpu), self._limited(timeout) as expired:
            self._run_to_exit(expired, instructions)
        self._running = None
        return read_exit(vmcs)

    @property
    def time(self) -> int:
        """Nanoseconds of virtual time, which are instructions executed, since the processor was made."""
        return self._vm.virtual_time()

    def statistics(self) -> dict[str, int]:
        """The engine's counters: instructions, vm_entries, vm_exits, and these by reason (vm_exits_hlt)."""
        return self._vcpu.statistics()

    def watch(self) -> None:
        """Note VM entries and VM exits from now on, for `transitions`."""
        self._vcpu.watch_vmx(True)

    def transitions(self) -> list[VmxTransition]:
        """The VM entries and VM exits since the last call, the first 65536 of them, if they are watched."""
        return self._vcpu.vmx_transitions()[0]

    def load(self, vmcs: Vmcs) -> None:
        """VMPTRLD, unless it is the current VMCS already."""
        if vmcs is not self._current:
            self.execute("vmptrld", vmcs.address)
            self._current = vmcs

    def clear(self, vmcs: Vmcs) -> None:
        """VMCLEAR: write a VMCS to memory and make its launch state clear; it is launched next."""
        self.execute("vmclear", vmcs.address)
        if vmcs is self._current:
            self._current = None

    def invalidate_ept(self, pointer: int) -> None:
        """INVEPT of what an EPT pointer leads to."""
        self.execute("invept", _INVEPT_SINGLE_CONTEXT, pointer, 0)

    def execute(self, instruction: str, *operands: int) -> int | None:
        """Execute one VMX instruction in VMX root operation; what VMREAD and VMPTRST give, else None.

        A VMCS may be made current with it, and entered, behind the back of `load` and `launch`: rather use
        these. Raises `VmInstructionError`, `VmEntryFailed`, and `VmxError` for VMfailInvalid and exceptions.
        """
        if self._closed:
            raise VmxError("this processor is closed: it has left VMX operation")
        try:
            outcome = self._vcpu.vmx(instruction, *operands)
        except EngineError as error:
            raise VmxError(f"{instruction.upper()}: {error}") from error
        _raise_failure(instruction, outcome)
        return outcome.value

    def _known_fields(self) -> frozenset[int]:
        """The encodings of the fields that VMCSs have here, found out with a VMCS that nobody uses."""
        region = self._region()
        self.execute("vmclear", region)
        self.execute("vmptrld", region)
        known = frozenset(each for each in FIELDS if self._vcpu.vmx("vmread", each).kind == "succeeded")
        self.execute("vmclear", region)
        return known

    def _region(self) -> int:
        """A page with the VMCS revision identifier."""
        address = self.pages.take()
        self.pages.write(address, (self._capabilities[_BASIC] & 0x7FFF_FFFF).to_bytes(4, "little"))
        return address

    def _ram(self) -> list[tuple[int, int]]:
        """The guest's RAM as (first address, address after the last)."""
        size = len(self.memory)
        parts = [(0, min(size, _HOLE[0])), (_HOLE[1], size)]
        return [(start, end) for start, end in parts if start < end]

    def _enter(self, instruction: str, vmcs: Vmcs, timeout: float | None, instructions: int | None) -> VmExit:
        self.load(vmcs)
        self.execute(instruction)
        self._running = vmcs
        return self.run(timeout=timeout, instructions=instructions)

    def _run_to_exit(self, expired: threading.Event, instructions: int | None) -> None:
        """Run the guest to its next VM exit."""
        end = None if instructions is None else self._executed() + instructions
        reply: int | None = None
        progress = _Progress()
        while True:
            budget = None if end is None else max(end - self._executed(), 0)
            exit = self._vcpu.run(reply, instructions=budget)
            reply = None
            match exit:
                case EngineExit():
                    return
                case PioRead() | MmioRead():
                    reply = (1 << 8 * exit.size) - 1
                case PioWrite() | MmioWrite():
                    pass
                case SerialOutput():
                    self.serial_output += exit.data
                case Interrupted():
                    # Else it is the heartbeat, or a kick that came too late for the run before.
                    if expired.is_set() or (end is not None and self._executed() >= end):
                        raise VmxTimeout("the guest caused no VM exit in time: run goes on with it")
                    if progress.has_ended(self._executed(), self._vcpu.registers()):
                        raise VmxError(_HALTED)
                case Halted():
                    raise VmxError(_HALTED)
                case Shutdown():
                    raise VmxError("the processor is shut down by a VMX abort")

    def _executed(self) -> int:
        return self._vcpu.statistics()["instructions"]

    @contextmanager
    def _limited(self, seconds: float | None) -> Iterator[threading.Event]:
        """An event that is set after so many seconds, when the processor is kicked out of its guest."""
        expired = threading.Event()
        if seconds is None:
            yield expired
            return

        def expire() -> None:
            expired.set()
            self._vcpu.kick()

        timer = threading.Timer(seconds, expire)
        timer.daemon = True
        timer.start()
        try:
            yield expired
        finally:
            timer.cancel()


class _Progress:
    """Whether a guest still does something."""

    def __init__(self) -> None:
        self._last: tuple[int, object] | None = None
        self._since = 0.0

    def has_ended(self, instructions: int, registers: object) -> bool:
        """Whether neither the instructions executed nor the registers have changed for a while."""
        now = time.monotonic()
        if (instructions, registers) != self._last:
            self._last, self._since = (instructions, registers), now
        return now - self._since > _STANDSTILL


def _raise_failure(instruction: str, outcome: VmxOutcome) -> None:
    """Raise what a VMX instruction that failed tells."""
    if outcome.check is not None:
        check = CHECKS[outcome.check]
        raise VmEntryFailed(check.name, check.group, check.section, check.rule)
    match outcome.kind:
        case "fail_invalid":
            raise VmxError(
                f"{instruction.upper()} failed: there is no current VMCS, or no region of this revision"
            )
        case "fail_valid":
            assert outcome.error is not None
            raise VmInstructionError(instruction, outcome.error, INSTRUCTION_ERRORS[outcome.error])
        case "entry_failed":
            rule = f"entry {outcome.msr} of the VM-entry MSR-load area can be loaded"
            raise VmEntryFailed("MsrLoading", "guest", "27.4", rule)
