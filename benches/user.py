"""User-mode work: the programs in programs/, as the same static binaries, natively and in guests.

The guests are booted once and idle at a prompt of our own; each round runs each program in each peer in turn.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from comparison import Comparison, means
from figures import BenchmarkError
from peers import Guest, guest_of
from request import Findings, Request
from rows import SETS
from runners import Runner, runner

from gasang.guest import default_guest
from gasang.guest.initramfs import CharacterDevice, Directory, Entry, File, write_archive

PROGRAMS = Path(__file__).with_name("programs")
_COMPILE = ["gcc", "-O2", "-static", "-D_GNU_SOURCE"]
_COMPILE_TIMEOUT = 60

Samples = dict[str, dict[str, list[float]]]
"""Seconds by program and peer; a peer that a program could not run in is left out."""


def measure(request: Request) -> Findings:
    """Each program (or those in `request.only`) in each peer once a round. Raises `BenchmarkError`."""
    chosen = [name for rows in SETS.values() for name in rows if request.wants(name)]
    if not chosen:
        return Findings()
    with built(chosen) as (binaries, guest), ExitStack() as stack:
        runners = {
            peer: runner(peer, binaries, guest, stack, request.processor_time) for peer in request.peers
        }
        samples, failures = take_turns(runners, chosen, request.rounds)
    return Findings(comparisons(samples), failures=failures)


@contextmanager
def built(names: Sequence[str]) -> Iterator[tuple[Path, Guest]]:
    """The programs' binaries in a directory, and a guest with them in its root, while the block lasts."""
    default = default_guest()
    with tempfile.TemporaryDirectory(prefix="gasang-bench-") as directory:
        binaries = Path(directory)
        for name in ("init", *names):
            compile_program(name, binaries)
        with guest_of(default.kernel, _initrd(["init", *names], binaries), default.append) as guest:
            yield binaries, guest


def take_turns(runners: dict[str, Runner], names: Sequence[str], rounds: int) -> tuple[Samples, list[str]]:
    """Each program in each peer once a round; what failed, once for each program and peer."""
    samples: Samples = {name: {peer: [] for peer in runners} for name in names}
    failures = []
    for number in range(1, rounds + 1):
        for name in names:
            told = []
            for peer in list(samples[name]):
                try:
                    seconds = runners[peer].run(name)
                except BenchmarkError as error:
                    failures.append(str(error))
                    seconds = None
                told.append(f"{peer} {'-' if seconds is None else f'{seconds:.3f} s'}")
                if seconds is None:
                    del samples[name][peer]
                else:
                    samples[name][peer].append(seconds)
            print(f"round {number}: {name}: {', '.join(told)}", flush=True)
    return samples, failures


def comparisons(samples: Samples) -> list[Comparison]:
    """A comparison for each program, and the geometric means."""
    by_set = {
        kind: measured
        for kind, rows in SETS.items()
        if (measured := {name: samples[name] for name in rows if name in samples})
    }
    rows = [
        Comparison.of(name, kind, times, SETS[kind][name])
        for kind, measured in by_set.items()
        for name, times in measured.items()
    ]
    return rows + means(by_set)


def compile_program(name: str, directory: Path, source: Path | None = None) -> None:
    """Put the static binary of a program, by default of one of ours, into a directory.

    Raises `BenchmarkError`.
    """
    source = source or PROGRAMS / f"{name}.c"
    try:
        subprocess.run(
            [*_COMPILE, "-o", directory / name, source, "-lm"],
            check=True, capture_output=True, text=True, timeout=_COMPILE_TIMEOUT,
        )  # fmt: skip
    except FileNotFoundError:
        raise BenchmarkError("gcc was not found: the programs are compiled with it") from None
    except subprocess.CalledProcessError as error:
        raise BenchmarkError(f"{source} does not compile: {error.stderr}") from error


def _initrd(names: Sequence[str], binaries: Path) -> bytes:
    devices: list[Entry] = [
        Directory("dev"), Directory("dev/shm"), CharacterDevice("dev/console", 5, 1),
    ]  # fmt: skip
    return write_archive([*devices, *(File(name, (binaries / name).read_bytes(), 0o755) for name in names)])
