"""Exits of /dev/kvm to a bare loop in C, to the engine, and to Python through it; by turns, in one run."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from exit_round_trip import guest
from figures import BenchmarkError, Figure, ratios
from request import Findings, Request

from gasang import _engine

OVER_C_BAR = 1.3
PYTHON_BAR = 1.5
EXITS = 20_000
_SOURCE = Path(__file__).with_name("guests") / "kvm_exits.c"
_TIMEOUT = 60.0

WRITE_ENGINES_PORT = b"\xb9" + EXITS.to_bytes(2, "little") + b"\xe6\x21\xe2\xfc\xe6\x80\xeb\xf5"
"""0: mov cx, EXITS; 1: out 0x21, al; loop 1b; out 0x80, al; jmp 0b: the engine answers all but the last."""


def measure(request: Request) -> Findings:
    """A round of each in turn. Raises `BenchmarkError` where KVM does not run such guests."""
    failure = next((failure for _, failure in _engine.probe_kvm()[:2] if failure), None)
    if failure:
        raise BenchmarkError(f"kvm: {failure}")
    with tempfile.TemporaryDirectory(prefix="gasang-bench-") as directory:
        program = Path(directory) / "kvm_exits"
        subprocess.run(("gcc", "-O2", "-Wall", "-Wextra", "-o", program, _SOURCE), check=True)
        rounds = [(_bare(program), *_ours()) for _ in range(5 * request.rounds)]
    bare, engine, python = (list(column) for column in zip(*rounds, strict=True))
    return Findings(
        figures=[
            Figure.of("kvm: exit to a loop in C", "µs", bare),
            Figure.of("kvm: exit to the engine", "µs", engine),
            Figure.of("kvm: exit to the engine over C's", "times", ratios(engine, bare), OVER_C_BAR),
            Figure.of(
                "kvm: exit to Python, beyond the engine's",
                "µs",
                [mine - other for mine, other in zip(python, engine, strict=True)],
                PYTHON_BAR,
            ),
        ]
    )


def _bare(program: Path) -> float:
    done = subprocess.run(
        (program, str(EXITS)), capture_output=True, text=True, timeout=_TIMEOUT, check=False
    )
    if done.returncode != 0:
        raise BenchmarkError(f"kvm: the loop in C said: {done.stderr.strip()}")
    return float(done.stdout) / 1000


def _ours() -> tuple[float, float]:
    """Microseconds for an exit that the engine answers, and for one that Python does; in a thread of its own,
    as a machine's processors run."""
    figures: list[float] = []

    def run() -> None:
        figures.append(_timed(guest("kvm", WRITE_ENGINES_PORT), 1))
        figures.append(_timed(guest("kvm"), EXITS))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    engine, python = figures
    return engine, python


def _timed(vcpu: _engine.Vcpu, runs: int) -> float:
    """Microseconds for each of EXITS exits, in so many runs."""
    run: Callable[[], object] = vcpu.run
    run()
    start = time.perf_counter()
    for _ in range(runs):
        run()
    return (time.perf_counter() - start) / EXITS * 1e6
