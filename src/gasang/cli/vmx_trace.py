"""Shows the VM entries and VM exits of a guest that is a hypervisor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from gasang.cli.trace import Trace
from gasang.vmx import Transition, transition_line


class Source(Protocol):
    """A machine, as far as it is of use here."""

    def vmx_transitions(self, cpu: int = ...) -> tuple[Sequence[Transition], int]:
        """The transitions since the last call, and how many more there were than could be kept."""


class VmxTrace(Trace[Source]):
    """Writes VM entries and VM exits to a descriptor as they happen, a line each."""

    def texts(self, machine: Source, cpu: int) -> Iterator[str]:
        """The lines of the processor's transitions."""
        transitions, lost = machine.vmx_transitions(cpu)
        for transition in transitions:
            yield f"cpu {cpu} {transition_line(transition)}\n"
        if lost:
            yield f"cpu {cpu} {lost} transitions more: they came faster than they could be shown\n"
