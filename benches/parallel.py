"""Two processors: programs/parallel.c, which runs two processes at once, in machines with one and with two.

On a host with one processor there is nothing to measure.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace

from comparison import Comparison, Times
from figures import Figure, ratios
from peers import GASANG, NATIVE, QEMU
from request import Findings, Request
from rows import PARALLEL, PARALLEL_SCALING
from runners import Runner, runner
from user import built, take_turns

PROGRAM = "parallel"


def measure(request: Request) -> Findings:
    """The program once a round in each machine. Raises `BenchmarkError`."""
    if not request.wants(PROGRAM):
        return Findings()
    if len(os.sched_getaffinity(0)) < 2:
        return Findings(failures=[f"{PROGRAM}: this host has only one processor"])
    with built([PROGRAM]) as (binaries, guest), ExitStack() as stack:
        runners: dict[str, Runner] = {
            _machine(peer, cpus): runner(peer, binaries, replace(guest, cpus=cpus), stack)
            for peer in request.peers
            for cpus in ((2,) if peer == NATIVE else (1, 2))
        }
        samples, failures = take_turns(runners, [PROGRAM], request.rounds)
    return findings(samples[PROGRAM], failures)


def findings(samples: Times, failures: list[str]) -> Findings:
    """The row of two processors, and their time over one's, from the times of each machine."""
    of_two = {
        peer: samples[name] for peer in (NATIVE, GASANG, QEMU) if (name := _machine(peer, 2)) in samples
    }
    figures = [
        Figure.of(
            f"{PROGRAM}: {peer}: two processors / one",
            "x",
            ratios(of_two[peer], samples[_machine(peer, 1)]),
            1 / PARALLEL_SCALING if peer == GASANG else None,
        )
        for peer in of_two
        if _machine(peer, 1) in samples
    ]
    return Findings([Comparison.of(PROGRAM, PROGRAM, of_two, PARALLEL)], figures, failures)


def _machine(peer: str, cpus: int) -> str:
    return f"{peer}-{cpus}"
