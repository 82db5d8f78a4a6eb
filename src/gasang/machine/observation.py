"""What a machine shows of its work: counters, profiles, translated code, and what leaves the guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gasang import profile
from gasang._engine import EngineError
from gasang.config import MachineConfig
from gasang.errors import ConfigError

if TYPE_CHECKING:
    from gasang._engine import TraceEvent, TranslatedBlock, VmxTransition
    from gasang.loaders import BootRequest
    from gasang.machine.pc import Pc
    from gasang.machine.run_loop import RunLoop
    from gasang.profile import Profile, Symbols

SAMPLES_A_SECOND = 997
"""Not a round number, lest samples keep step with the guest's timer."""


class Observation:
    """A machine, as far as its work can be seen. Every method may be called from any thread."""

    config: MachineConfig
    _pc: Pc
    _loop: RunLoop
    _symbols: Symbols | None = None

    def statistics(self) -> dict[str, int]:
        """The engine's counters, summed over the processors: of a running machine, those of a moment ago."""
        total: dict[str, int] = {}
        for vcpu in self._pc.vcpus:
            for name, count in vcpu.statistics().items():
                total[name] = total.get(name, 0) + count
        return total

    def profile(self) -> Profile:
        """Where time went since `start_profile`, or since the start with the option `profile`; a running
        machine is held meanwhile.

        Raises `ConfigError` if nothing was measured.
        """
        with self._loop.paused():
            measured = [each for vcpu in self._pc.vcpus if (each := vcpu.profile()) is not None]
            executions = [each for vcpu in self._pc.vcpus for each in vcpu.executions()]
        if not measured:
            raise ConfigError("this machine is not profiled: boot it with profile (--profile)")
        return profile.profile(measured, self.statistics(), self._guest_symbols(), executions)

    def start_profile(self) -> None:
        """Measure from now on, from nothing. Raises `ConfigError` if the host refuses what that needs."""
        with self._loop.paused():
            self._set_profile(SAMPLES_A_SECOND)

    def stop_profile(self) -> None:
        """Measure no longer, and forget what was measured."""
        with self._loop.paused():
            self._set_profile(None)

    def translated_blocks(self, cpu: int = 0) -> list[TranslatedBlock]:
        """The blocks translated since the last call, if the machine was made with `trace_blocks`."""
        with self._loop.paused():
            return self._pc.vcpus[cpu].translated_blocks()

    def traced_exits(self, cpu: int = 0) -> tuple[list[TraceEvent], int]:
        """What left the guest since the last call, and how much more there was than could be kept, if the
        machine was made with `trace_exits`."""
        with self._loop.paused():
            return self._pc.vcpus[cpu].traced_exits()

    def vmx_transitions(self, cpu: int = 0) -> tuple[list[VmxTransition], int]:
        """The VM entries and VM exits of a guest that is a hypervisor since the last call, and how many more
        there were than could be kept, if the machine was made with `trace_vmx`."""
        with self._loop.paused():
            return self._pc.vcpus[cpu].vmx_transitions()

    def _set_profile(self, hertz: int | None) -> None:
        try:
            for vcpu in self._pc.vcpus:
                vcpu.set_profile(hertz)
        except EngineError as error:
            raise ConfigError(f"no profile: {error}") from error

    def _guest_symbols(self) -> Symbols:
        """The names of the guest's addresses, which are read when they are wanted."""
        if self._symbols is None:
            from gasang.machine.symbols import guest_symbols  # noqa: PLC0415 - slow to load, and not always needed

            self._symbols = guest_symbols(self.config, self._boot_request())
        return self._symbols

    def _boot_request(self) -> BootRequest:
        raise NotImplementedError
