"""User-mode work: the programs in programs/, as the same static binaries, natively and in guests.

The guests are booted once and idle at a prompt of our own; each round runs each program in each peer in turn.
A program reads its guest's monotonic clock, so the host's clock is read around it too: a guest whose clock
runs slow would look fast.
"""

from __future__ import annotations

import re
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from console import Console
from figures import BenchmarkError, Figure, geometric_means, ratios
from peers import GASANG, NATIVE, command, guest_of
from request import Request

from gasang.guest import default_guest
from gasang.guest.initramfs import CharacterDevice, Directory, Entry, File, write_archive

SETS = {
    "integer": ("sha256", "bytecode", "sort", "calls", "compress", "recursion", "muldiv", "hashing"),
    "vector": ("nbody", "mandelbrot", "x87", "matmul", "avx2", "fma", "aes", "sha", "blur"),
    "memory": ("streaming", "rep_movs"),
    "aliasing": ("aliasing",),
    "chases": ("chase_l1", "chase_l2", "chase_ram"),
    "system": ("syscall", "page_fault", "mmap", "fork", "exec", "pipe", "signals", "files"),
    "code": ("rewrite", "flip", "first_run"),
}
"""The programs by the set whose geometric mean they enter."""

_BARS = {"integer": 3.0, "vector": 4.0}
_OUTCOME = r"(result|skip) {name} ([0-9.]+)?"
_PROGRAMS = Path(__file__).with_name("programs")
_BOOT_TIMEOUT = 300.0
_PROGRAM_TIMEOUT = 300.0
_CLOCK_TOLERANCE = 0.1
"""Fork, exec and the console pass between the two clocks' readings; a tenth and 0.2 s are ample for them."""

Runner = Callable[[str], float | None]
"""Runs a program; None if the processor lacks what it is about."""

Samples = dict[str, dict[str, list[float | None]]]


def measure(request: Request) -> list[Figure]:
    """Seconds of each program (or those in `request.only`) in each peer, as ratios to native.

    Raises `BenchmarkError`.
    """
    chosen = [name for programs in SETS.values() for name in programs if request.wants(name)]
    with ExitStack() as stack:
        binaries = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gasang-bench-")))
        _compile(["init", *chosen], binaries)
        runners = _start(request, chosen, binaries, stack)
        seconds: Samples = {name: {peer: [] for peer in runners} for name in chosen}
        for number in range(1, request.rounds + 1):
            for name in chosen:
                for peer, run in runners.items():
                    seconds[name][peer].append(run(name))
                times = ", ".join(f"{peer} {_told(seconds[name][peer][-1])}" for peer in runners)
                print(f"user, round {number}: {name}: {times}", flush=True)
    return _figures(seconds, [peer for peer in runners if peer != NATIVE])


def _told(seconds: float | None) -> str:
    return "skips it" if seconds is None else f"{seconds:.3f} s"


def _compile(names: list[str], directory: Path) -> None:
    for name in names:
        source = _PROGRAMS / f"{name}.c"
        try:
            subprocess.run(
                ["gcc", "-O2", "-static", "-D_GNU_SOURCE", "-o", directory / name, source, "-lm"],
                check=True, capture_output=True, text=True, timeout=60,
            )  # fmt: skip
        except FileNotFoundError:
            raise BenchmarkError("gcc was not found: the programs are compiled with it") from None
        except subprocess.CalledProcessError as error:
            raise BenchmarkError(f"{source} does not compile: {error.stderr}") from error


def _start(request: Request, programs: list[str], binaries: Path, stack: ExitStack) -> dict[str, Runner]:
    """Boot the guests; the way to run a program in each peer."""
    kernel, append = default_guest().kernel, default_guest().append
    guest = stack.enter_context(guest_of(kernel, _initrd(["init", *programs], binaries), append))
    runners: dict[str, Runner] = {}
    for peer in request.peers:
        if peer == NATIVE:
            runners[peer] = partial(_run_natively, binaries, request.processor_time)
        else:
            console = stack.enter_context(Console(command(peer, guest)))
            console.expect("ready", _BOOT_TIMEOUT)
            runners[peer] = partial(_run_in_guest, console, peer, request.processor_time)
    return runners


def _initrd(names: list[str], binaries: Path) -> bytes:
    console: list[Entry] = [Directory("dev"), Directory("dev/shm"), CharacterDevice("dev/console", 5, 1)]
    return write_archive([*console, *(File(name, (binaries / name).read_bytes(), 0o755) for name in names)])


def _run_natively(binaries: Path, processor_time: bool, name: str) -> float | None:
    used = _processor_seconds_of_children()
    done = subprocess.run(
        [binaries / name], capture_output=True, text=True, timeout=_PROGRAM_TIMEOUT, check=False
    )
    found = re.search(_OUTCOME.format(name=name), done.stdout)
    if done.returncode != 0 or found is None:
        raise BenchmarkError(f"{name} failed natively: {done.stdout}{done.stderr}")
    if found[2] is None:
        return None
    return _processor_seconds_of_children() - used if processor_time else float(found[2])


def _processor_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _run_in_guest(console: Console, peer: str, processor_time: bool, name: str) -> float | None:
    console.send(f"/{name}")
    found = console.expect(r"(start|skip|wrong) [^\n]*\n", _PROGRAM_TIMEOUT)
    if found[1] == b"skip":
        return None
    began, used = time.monotonic(), console.processor_seconds()
    if found[1] == b"start":
        found = console.expect(rf"(result) {name} ([0-9.]+) [^\n]*\n|(wrong) [^\n]*\n", _PROGRAM_TIMEOUT)
    around = time.monotonic() - began
    if found[1] != b"result":
        raise BenchmarkError(f"{name} failed in {peer}: {found[0].decode(errors='replace')}")
    inside = float(found[2])
    if not around * (1 - _CLOCK_TOLERANCE) - 0.02 <= inside <= around * (1 + _CLOCK_TOLERANCE) + 0.02:
        print(f"{name} in {peer}: the guest's clock says {inside:.3f} s, not {around:.3f}", flush=True)
    return console.processor_seconds() - used if processor_time else around


def _figures(seconds: Samples, guests: list[str]) -> list[Figure]:
    figures = []
    for kind, programs in SETS.items():
        for peer in guests:
            measured = [name for name in programs if name in seconds and not _skipped(seconds[name], peer)]
            rows = [_against_native(seconds[name], peer) for name in measured]
            figures += [
                Figure.of(f"user: {name}: {peer}", "x native", row)
                for name, row in zip(measured, rows, strict=True)
            ]
            if rows and kind in _BARS:
                figures.append(_mean(kind, peer, rows))
    return figures


def _skipped(seconds: dict[str, list[float | None]], peer: str) -> bool:
    return None in seconds[peer] or None in seconds.get(NATIVE, [])


def _against_native(seconds: dict[str, list[float]], peer: str) -> list[float]:
    """Ratios to native; with native left out, to one second."""
    return ratios(seconds[peer], seconds.get(NATIVE, [1.0] * len(seconds[peer])))


def _mean(kind: str, peer: str, rows: list[list[float]]) -> Figure:
    bar = _BARS[kind] if peer == GASANG and len(rows) == len(SETS[kind]) else None
    return Figure.of(f"user: {kind}, geometric mean: {peer}", "x native", geometric_means(rows), bar)
