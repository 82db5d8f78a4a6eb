"""Shows what leaves the guest, as perf shows the tracepoints of KVM."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from gasang.cli.trace import Trace

_USERSPACE_REASONS = {
    2: "KVM_EXIT_IO",
    5: "KVM_EXIT_HLT",
    6: "KVM_EXIT_MMIO",
    8: "KVM_EXIT_SHUTDOWN",
    10: "KVM_EXIT_INTR",
    17: "KVM_EXIT_INTERNAL_ERROR",
}
_EXIT_REASONS = {12: "HLT"}
_MMIO_TYPES = {1: "read", 2: "write"}


class Event(Protocol):
    """A tracepoint as it was passed; `time` in nanoseconds of the virtual clock."""

    @property
    def time(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def fields(self) -> Mapping[str, int]: ...


class Source(Protocol):
    """A machine, as far as it is of use here."""

    def traced_exits(self, cpu: int = ...) -> tuple[Sequence[Event], int]:
        """The events since the last call, and how many more there were than could be kept."""


class ExitTrace(Trace[Source]):
    """Writes what leaves the guest to a descriptor as it happens, a line each."""

    def texts(self, machine: Source, cpu: int) -> Iterator[str]:
        """The lines of the processor's events."""
        events, lost = machine.traced_exits(cpu)
        for event in events:
            yield f"cpu {cpu} {event_line(event)}\n"
        if lost:
            yield f"cpu {cpu} {lost} events more: they came faster than they could be shown\n"


def event_line(event: Event) -> str:
    """An event as a line: seconds, the tracepoint's name, its fields in KVM's words."""
    return f"{event.time / 1e9:.6f} {event.name}: {_WORDS[event.name](event.fields)}"


def _port(fields: Mapping[str, int]) -> str:
    direction = "write" if fields["rw"] else "read"
    return (
        f"pio_{direction} at {fields['port']:#x} size {fields['size']} count {fields['count']} "
        f"val {fields['val']:#x}"
    )


def _memory(fields: Mapping[str, int]) -> str:
    kind = _MMIO_TYPES[fields["type"]]
    return f"mmio {kind} len {fields['len']} gpa {fields['gpa']:#x} val {fields['val']:#x}"


def _msr(fields: Mapping[str, int]) -> str:
    direction = "write" if fields["write"] else "read"
    refused = " (#GP)" if fields["exception"] else ""
    return f"msr_{direction} {fields['ecx']:x} = {fields['data']:#x}{refused}"


def _hypercall(fields: Mapping[str, int]) -> str:
    arguments = " ".join(f"{name} {fields[name]:#x}" for name in ("a0", "a1", "a2", "a3"))
    return f"nr {fields['nr']:#x} {arguments}"


_WORDS: dict[str, Callable[[Mapping[str, int]], str]] = {
    "kvm_pio": _port,
    "kvm_mmio": _memory,
    "kvm_msr": _msr,
    "kvm_hypercall": _hypercall,
    "kvm_inj_virq": lambda fields: f"IRQ {fields['vector']:#x}",
    "kvm_exit": lambda fields: f"reason {_EXIT_REASONS[fields['exit_reason']]} rip {fields['guest_rip']:#x}",
    "kvm_userspace_exit": lambda fields: (
        f"reason {_USERSPACE_REASONS[fields['reason']]} ({fields['reason']})"
    ),
}
