"""User-mode work: the programs in programs/, as the same static binaries, natively and in guests.

The guests are booted once and idle at a prompt of our own; each round runs each program in each peer in turn.
A program reads its guest's monotonic clock, so the host's clock is read around it too: a guest whose clock
runs slow would look fast.
"""

from __future__ import annotations

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
    "integer": ("sha256", "bytecode", "sort"),
    "vector": ("matmul", "saxpy", "blur", "mandelbrot", "nbody"),
    "other": ("chase", "hashing"),
}
"""The programs by the set whose geometric mean they enter; the last set is only told."""

_BARS = {"integer": 3.0, "vector": 4.0}
_PROGRAMS = Path(__file__).with_name("programs")
_BOOT_TIMEOUT = 300.0
_PROGRAM_TIMEOUT = 300.0
_CLOCK_TOLERANCE = 0.1
"""Fork, exec and the console pass between the two clocks' readings; a tenth and 0.2 s are ample for them."""

Runner = Callable[[str], float]
Samples = dict[str, dict[str, list[float]]]


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
                times = ", ".join(f"{peer} {seconds[name][peer][-1]:.3f} s" for peer in runners)
                print(f"user, round {number}: {name}: {times}", flush=True)
    return _figures(seconds, [peer for peer in runners if peer != NATIVE])


def _compile(names: list[str], directory: Path) -> None:
    for name in names:
        source = _PROGRAMS / f"{name}.c"
        try:
            subprocess.run(
                ["gcc", "-O2", "-static", "-o", directory / name, source, "-lm"],
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
    console: list[Entry] = [Directory("dev"), CharacterDevice("dev/console", 5, 1)]
    return write_archive([*console, *(File(name, (binaries / name).read_bytes(), 0o755) for name in names)])


def _run_natively(binaries: Path, processor_time: bool, name: str) -> float:
    used = _processor_seconds_of_children()
    done = subprocess.run(
        [binaries / name], capture_output=True, text=True, timeout=_PROGRAM_TIMEOUT, check=False
    )
    words = done.stdout.split()
    if done.returncode != 0 or words[:1] != ["result"]:
        raise BenchmarkError(f"{name} failed natively: {done.stdout}{done.stderr}")
    return _processor_seconds_of_children() - used if processor_time else float(words[2])


def _processor_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _run_in_guest(console: Console, peer: str, processor_time: bool, name: str) -> float:
    began, used = time.monotonic(), console.processor_seconds()
    console.send(f"/{name}")
    found = console.expect(rf"(result {name} ([0-9.]+) |wrong )[^\n]*\n", _PROGRAM_TIMEOUT)
    around = time.monotonic() - began
    if found[2] is None:
        raise BenchmarkError(f"{name} failed in {peer}: {found[0].decode(errors='replace')}")
    inside = float(found[2])
    if not around * (1 - _CLOCK_TOLERANCE) - 0.2 <= inside <= around * (1 + _CLOCK_TOLERANCE):
        raise BenchmarkError(f"{name} in {peer}: the guest's clock says {inside:.3f} s, not {around:.3f}")
    return console.processor_seconds() - used if processor_time else inside


def _figures(seconds: Samples, guests: list[str]) -> list[Figure]:
    figures = []
    for kind, programs in SETS.items():
        measured = [name for name in programs if name in seconds]
        for peer in guests:
            rows = [_against_native(seconds[name], peer) for name in measured]
            figures += [
                Figure.of(f"user: {name}: {peer}", "x native", row)
                for name, row in zip(measured, rows, strict=True)
            ]
            if rows and kind in _BARS:
                figures.append(_mean(kind, peer, rows))
    return figures


def _against_native(seconds: dict[str, list[float]], peer: str) -> list[float]:
    """Ratios to native; with native left out, to one second."""
    return ratios(seconds[peer], seconds.get(NATIVE, [1.0] * len(seconds[peer])))


def _mean(kind: str, peer: str, rows: list[list[float]]) -> Figure:
    bar = _BARS[kind] if peer == GASANG and len(rows) == len(SETS[kind]) else None
    return Figure.of(f"user: {kind}, geometric mean: {peer}", "x native", geometric_means(rows), bar)
