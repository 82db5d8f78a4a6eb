"""A virtual machine: `Machine.boot()` starts one, `Outcome` says how it ended."""

from gasang.machine.channel import Channel
from gasang.machine.machine import Machine
from gasang.machine.outcome import (
    DebugExit,
    EngineFailed,
    GuestPanic,
    HaltedForever,
    Outcome,
    PowerOff,
    Reboot,
    Stopped,
    TimedOut,
    TripleFault,
)

__all__ = [
    "Channel",
    "DebugExit",
    "EngineFailed",
    "GuestPanic",
    "HaltedForever",
    "Machine",
    "Outcome",
    "PowerOff",
    "Reboot",
    "Stopped",
    "TimedOut",
    "TripleFault",
]
