"""VM entries and VM exits as lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gasang.vmx.enumerations import ExitReason
from gasang.vmx.names import FIELDS

_BASIC = 0xFFFF
_ENTRY_FAILURE = 1 << 31
_TOLD = frozenset({"exit_information.reason", "exit_information.qualification", "guest.rip"})
"""What a line says of itself, not as changed fields."""


class Transition(Protocol):
    """A VM entry or a VM exit, as the engine notes it (`VmxTransition`)."""

    @property
    def kind(self) -> str: ...
    @property
    def vmcs(self) -> int: ...
    @property
    def time(self) -> int: ...
    @property
    def rip(self) -> int: ...
    @property
    def reason(self) -> int: ...
    @property
    def qualification(self) -> int: ...
    @property
    def changed(self) -> Sequence[tuple[int, int]]: ...


def reason_title(reason: int) -> str:
    """What an exit-reason field says."""
    basic = reason & _BASIC
    return ExitReason(basic).title if basic in set(ExitReason) else f"exit reason {basic}"


def transition_line(transition: Transition) -> str:
    """A transition as a line: time in microseconds, VMCS, entry or exit, RIP, for exits the reason and the
    qualification, then the fields of the VMCS that have changed since the transition before."""
    head = f"{transition.time / 1000:.3f} VMCS {transition.vmcs:#x} {transition.kind:<5}"
    head += f" RIP {transition.rip:#x}"
    if transition.kind == "exit":
        failed = "VM entry, " if transition.reason & _ENTRY_FAILURE else ""
        head += f" {failed}{reason_title(transition.reason)}, qualification {transition.qualification:#x}"
    changed = [(FIELDS[encoding], value) for encoding, value in transition.changed]
    shown = [
        f"{field.area}.{field.name}={value:#x}"
        for field, value in changed
        if f"{field.area}.{field.name}" not in _TOLD
    ]
    return f"{head}: {' '.join(shown)}" if shown else head
