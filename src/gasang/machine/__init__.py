"""A virtual machine: `Machine.boot()` starts one, `Outcome` says how it ended."""

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from gasang.machine.asynchronous import AsyncChannel, AsyncGuestProcess, AsyncMachine

__all__ = [
    "AsyncChannel",
    "AsyncGuestProcess",
    "AsyncMachine",
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


def __getattr__(name: str) -> Any:
    """What is for asyncio is loaded when it is asked for."""
    if name in ("AsyncChannel", "AsyncGuestProcess", "AsyncMachine"):
        from gasang.machine import asynchronous  # noqa: PLC0415

        return getattr(asynchronous, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
