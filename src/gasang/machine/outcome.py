"""How machines end: each outcome has a `reason` for people and an `exit_code` for shells."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

_OUR_OWN_ERROR = 125
_GUEST_FAILED = 255


@dataclass(frozen=True)
class _Fieldless:
    """The same as any other of its class. To have `dataclass` make each of these took long."""


class PowerOff(_Fieldless):
    """The guest switched the machine off."""

    reason: ClassVar[str] = "power-off"
    exit_code: ClassVar[int] = 0


class Reboot(_Fieldless):
    """The guest asked for a reset; machines end there."""

    reason: ClassVar[str] = "reboot"
    exit_code: ClassVar[int] = 0


class HaltedForever(_Fieldless):
    """Every processor executed HLT with interrupts disabled."""

    reason: ClassVar[str] = "halted with interrupts disabled"
    exit_code: ClassVar[int] = 0


@dataclass(frozen=True)
class DebugExit:
    """The guest wrote to isa-debug-exit."""

    reason: ClassVar[str] = "debug exit"
    exit_code: int


class TripleFault(_Fieldless):
    """A fault came while a double fault was being delivered."""

    reason: ClassVar[str] = "triple fault"
    exit_code: ClassVar[int] = _GUEST_FAILED


@dataclass(frozen=True)
class GuestPanic:
    """The guest's kernel printed a panic before it halted or asked for a reset; `message` is what it said."""

    exit_code: ClassVar[int] = _GUEST_FAILED
    message: str

    @property
    def reason(self) -> str:
        return f"kernel panic: {self.message}" if self.message else "kernel panic"


class Stopped(_Fieldless):
    """The host stopped it: `Machine.stop`, the end of a `with` block, or of the program."""

    reason: ClassVar[str] = "stopped"
    exit_code: ClassVar[int] = 0


@dataclass(frozen=True)
class TimedOut:
    """The host stopped it because its time was up."""

    exit_code: ClassVar[int] = 124
    seconds: float

    @property
    def reason(self) -> str:
        return f"timeout after {self.seconds:g} s"


@dataclass(frozen=True)
class EngineFailed:
    """An error of ours, not of the guest."""

    exit_code: ClassVar[int] = _OUR_OWN_ERROR
    error: BaseException

    @property
    def reason(self) -> str:
        return f"{type(self.error).__name__} in gasang: {self.error}"


Outcome = (
    PowerOff
    | Reboot
    | HaltedForever
    | DebugExit
    | TripleFault
    | GuestPanic
    | Stopped
    | TimedOut
    | EngineFailed
)

_PANIC = re.compile(r"(?:Kernel panic - not syncing|Panic on CPU \d+):\s*([^\r\n]*)")
"""What Linux and Xen print."""


def judge(outcome: Outcome, console: str) -> Outcome:
    """`outcome`, or a panic if the console says that this is why the guest halted or asked for a reset."""
    if not isinstance(outcome, Reboot | HaltedForever):
        return outcome
    panic = _PANIC.search(console)
    return GuestPanic(panic[1].strip()) if panic else outcome
