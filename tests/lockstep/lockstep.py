"""T0 against T1: the same machine twice, compared by instruction count.

The leader translates (T1); the follower executes one instruction at a time (T0), with the leader's interrupts
delivered at the same instruction counts. Time is counted in instructions, so both see the same clocks. After
every stretch the registers, and now and then all of memory, must be equal. When they are not, the run is
repeated with stretches of single blocks near the place, so that what is reported is the block after which the
two differ.

    python tests/lockstep/lockstep.py [--instructions N] [--from N --stretch N]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from gasang import _engine, loaders
from gasang.config import MachineConfig
from gasang.guest import default_guest
from gasang.machine.boot_files import open_boot_files
from gasang.machine.ending import Ending
from gasang.machine.pc import Pc
from gasang.machine.run_loop import RunLoop
from gasang.units import parse_size

MADE = datetime(2026, 1, 1, tzinfo=UTC)
"""When both machines were made, as their real-time clocks tell it."""

STRETCH = 200_000
"""Instructions between two comparisons of the registers."""

MEMORY_EVERY = 50
"""Stretches between two comparisons of memory."""


@dataclass(frozen=True)
class Difference:
    """Where the two machines part: between `after` and `by` instructions."""

    after: int
    by: int
    lines: list[str]


class Side:
    """One of the two machines."""

    def __init__(self, config: MachineConfig, accel: str) -> None:
        assert config.kernel is not None
        config = replace(config, date=MADE)
        with _strict_flags():
            self.vm = _engine.Vm(memory=config.memory, accel=accel, cpu=config.cpu, clock="instructions")
        self.ending = Ending(lambda outcome: outcome)
        self.console = bytearray()
        self.pc = Pc(self.vm, config, self.ending, lambda _: None)
        request = open_boot_files(config, config.kernel, self.pc.memory_map, self.pc.tables.rsdp_address)
        self.pc.load(loaders.load(request))
        self.vcpu = self.pc.vcpus[0]
        self.loop = RunLoop(self.pc.vcpus, self.pc.bus, self.ending, self._serial)
        self.reply: int | None = None

    def _serial(self, index: int, data: bytes) -> None:
        if index == 0:
            self.console += data

    @property
    def count(self) -> int:
        return self.vcpu.statistics()["instructions"]

    def advance(self, target: int) -> None:
        """Run to `target` instructions, or a little further where the accelerator stops at blocks only."""
        while self.ending.outcome is None and (left := target - self.count) > 0:
            exit = self.vcpu.run(self.reply, instructions=left)
            self.reply = None
            if not isinstance(exit, _engine.Interrupted):
                self.reply = self.loop.answer(self.vcpu, exit)


@contextmanager
def _strict_flags() -> Iterator[None]:
    """Translators made meanwhile keep flags exact that the guest overwrites before it reads them."""
    before = os.environ.get("GASANG_STRICT_FLAGS")
    os.environ["GASANG_STRICT_FLAGS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["GASANG_STRICT_FLAGS"]
        else:
            os.environ["GASANG_STRICT_FLAGS"] = before


def differences(leader: Side, follower: Side, *, memory: bool) -> list[str]:
    """A line for everything that differs, the leader's value first."""
    lines = []
    one, other = leader.vcpu.registers(), follower.vcpu.registers()
    for name, value in one.items():
        if value != other[name]:
            lines.append(f"{name}: {_text(value)} in T1, {_text(other[name])} in T0")
    if leader.vcpu.extended_state() != follower.vcpu.extended_state():
        lines.append("extended state (x87, SSE, AVX) differs")
    if memory and leader.vm.memory_digest() != follower.vm.memory_digest():
        lines += list(_memory_differences(leader.vm, follower.vm))
    return lines


def _memory_differences(one: _engine.Vm, other: _engine.Vm) -> list[str]:
    lines = []
    for start, length in one.memory_regions():
        for address in range(start, start + length, 4096):
            mine, theirs = one.read_memory(address, 4096), other.read_memory(address, 4096)
            if mine != theirs:
                at = next(i for i in range(4096) if mine[i] != theirs[i]) & ~7
                one_text, other_text = mine[at : at + 16].hex(), theirs[at : at + 16].hex()
                lines.append(f"memory {address + at:#x}: {one_text} in T1, {other_text} in T0")
    return lines[:16]


def _text(value: object) -> str:
    return f"{value:#x}" if isinstance(value, int) else repr(value)


def catch_up(leader: Side, follower: Side, count: int) -> int:
    """Advance both by an instruction, or as few as the leader can; where they stand then."""
    leader.advance(count + 1)
    follower.vcpu.replay(leader.vcpu.events())
    follower.advance(leader.count)
    return leader.count


def compare(
    config: MachineConfig,
    instructions: int,
    *,
    start: int = 0,
    stretch: int = STRETCH,
    verbose: bool = False,
    tamper: Callable[[Side], None] = lambda _: None,
) -> Difference | None:
    """Run both machines for `instructions`; the first difference found after `start` instructions, if any.

    `tamper` may change the follower after each stretch, to see that differences are found.
    """
    leader, follower = Side(config, "bt"), Side(config, "interp")
    agreed = stretches = 0
    while agreed < instructions and leader.ending.outcome is None:
        step = stretch if agreed >= start else min(STRETCH, start - agreed)
        leader.advance(agreed + step)
        follower.vcpu.replay(leader.vcpu.events())
        count = leader.count
        follower.advance(count)
        tamper(follower)
        stretches += 1
        memory = stretches % MEMORY_EVERY == 0 or stretch < 1000
        lines = differences(leader, follower, memory=memory)
        if lines:
            # A fault is delivered between two instructions: one may stand before, the other behind it.
            count = catch_up(leader, follower, count)
            lines = differences(leader, follower, memory=memory)
        if lines:
            return Difference(agreed, count, lines)
        agreed = count
        if verbose and stretches % 50 == 0:
            print(f"{agreed:,} instructions agree", flush=True)
    lines = differences(leader, follower, memory=True)
    if lines or bytes(leader.console) != bytes(follower.console):
        return Difference(agreed, agreed, lines or ["the consoles differ"])
    return None


def default_config(memory: str = "256M") -> MachineConfig:
    """The default guest, talking to its console from the start."""
    guest = default_guest()
    append = f"{guest.append} earlyprintk=serial,ttyS0 ignore_loglevel"
    return MachineConfig(kernel=guest.kernel, initrd=guest.initrd, append=append, memory=parse_size(memory))


def report(difference: Difference) -> None:
    """Say where the machines part."""
    print(f"T1 and T0 differ between instructions {difference.after:,} and {difference.by:,}:")
    for line in difference.lines:
        print(f"  {line}")


def main(arguments: list[str]) -> int:
    """Compare over a boot; 0 if both agree to the end."""
    parser = argparse.ArgumentParser(description="Compare T0 with T1 over a boot of the default guest.")
    parser.add_argument(
        "--instructions", type=int, default=200_000_000, help="how far (default: %(default)s)"
    )
    parser.add_argument("--from", dest="start", type=int, default=0, help="where small stretches begin")
    parser.add_argument("--stretch", type=int, default=STRETCH, help="instructions between comparisons")
    options = parser.parse_args(arguments)
    config = default_config()
    found = compare(config, options.instructions, start=options.start, stretch=options.stretch, verbose=True)
    if found is None:
        print(f"T0 and T1 agree over {options.instructions:,} instructions")
        return 0
    report(found)
    if options.stretch > 1:
        print("narrowing down to a block", flush=True)
        narrow = compare(config, found.by + STRETCH, start=found.after, stretch=1)
        if narrow is not None:
            report(narrow)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
