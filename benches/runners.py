"""Ways to run a program of programs/ and time it: natively, and in a guest that waits at a prompt of our own.

A program reads its own clock, and its lines are timed by the host's clock too: a guest whose clock runs slow
would look fast.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from console import Console
from figures import BenchmarkError
from peers import NATIVE, Guest, command

BOOT_TIMEOUT = 300.0
_NATIVE_TIMEOUT = 60.0
_GUEST_TIMEOUT = 120.0

_NATIVE_SECONDS = 0.3
_NATIVE_RUNS = 5
"""A short program natively is a small sample: it runs until so much time has passed, so often at most."""

_OUTCOME = r"(?:result {name} ([0-9.]+) ([0-9.]+)|(skip {name})|wrong)[^\n]*\n"
"""What a program says at its end: seconds by the clock and on a processor, or that it cannot run here."""

_CLOCK_TOLERANCE = 0.1
_CLOCK_SLACK = 0.05
"""A tenth and some for the console's way: what clocks may differ by."""


class Runner(Protocol):
    """One peer."""

    def run(self, name: str) -> float | None:
        """Seconds that the program takes; None if the processor lacks what it is about.

        Raises `BenchmarkError` if it fails, or does not end in time.
        """


@dataclass
class NativeRunner:
    """The programs as processes of the host, one of whose processors each keeps to, as in guests."""

    binaries: Path
    processor_time: bool = False

    def run(self, name: str) -> float | None:
        """The median of a few runs if they are short."""
        samples: list[float] = []
        while sum(samples) < _NATIVE_SECONDS and len(samples) < _NATIVE_RUNS:
            sample = self._run_once(name)
            if sample is None:
                return None
            samples.append(sample)
        return statistics.median(samples)

    def _run_once(self, name: str) -> float | None:
        try:
            done = subprocess.run(
                [self.binaries / name],
                capture_output=True, text=True, timeout=_NATIVE_TIMEOUT, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"{name} natively: not done in {_NATIVE_TIMEOUT:g} s") from None
        found = re.search(_OUTCOME.format(name=name), done.stdout)
        if done.returncode != 0 or found is None or not (found[1] or found[3]):
            raise BenchmarkError(f"{name} natively: {done.stdout}{done.stderr}")
        return None if found[3] else float(found[2] if self.processor_time else found[1])


class GuestRunner:
    """A guest in a peer, booted when first needed, and again after a program that did not end well."""

    def __init__(self, peer: str, guest: Guest, stack: ExitStack, processor_time: bool = False) -> None:
        """`stack` ends the guest."""
        self._peer = peer
        self._guest = guest
        self._processor_time = processor_time
        self._running = stack.enter_context(ExitStack())
        self._console: Console | None = None

    def run(self, name: str) -> float | None:
        """The host's time between the lines of the program's start and end, or its own if that is more."""
        try:
            return self._run(self._console or self._boot(), name)
        except BenchmarkError as error:
            self._running.close()
            self._console = None
            raise BenchmarkError(f"{name} in {self._peer}: {error}") from error

    def _boot(self) -> Console:
        self._console = self._running.enter_context(Console(command(self._peer, self._guest)))
        self._console.expect("ready", BOOT_TIMEOUT)
        return self._console

    def _run(self, console: Console, name: str) -> float | None:
        sent = time.monotonic()
        console.send(f"/{name}")
        console.expect(rf"start {name}|(?=skip {name}|wrong)", _GUEST_TIMEOUT)
        began, used = time.monotonic(), console.processor_seconds()
        found = console.expect(_OUTCOME.format(name=name), _GUEST_TIMEOUT)
        ended, used = time.monotonic(), console.processor_seconds() - used
        if found[3]:
            return None
        if not found[1]:
            raise BenchmarkError(found[0].decode(errors="replace").strip())
        check_clock(float(found[1]), ended - began, ended - sent)
        return used if self._processor_time else max(ended - began, float(found[1]))


def check_clock(inside: float, between: float, around: float) -> None:
    """A guest's seconds must not be fewer than passed outside from line to line, or more than passed in all.

    Raises `BenchmarkError`.
    """
    least, most = (
        between * (1 - _CLOCK_TOLERANCE) - _CLOCK_SLACK,
        around * (1 + _CLOCK_TOLERANCE) + _CLOCK_SLACK,
    )
    if not least <= inside <= most:
        raise BenchmarkError(
            f"the guest's clock says {inside:.3f} s, the host's {between:.3f} to {around:.3f}"
        )


def runner(peer: str, binaries: Path, guest: Guest, stack: ExitStack, processor_time: bool = False) -> Runner:
    """The way to run programs in a peer: those in the directory `binaries`, which `guest` has in its root."""
    if peer == NATIVE:
        return NativeRunner(binaries, processor_time)
    return GuestRunner(peer, guest, stack, processor_time)
