"""Beginning in a snapshot: a command from nothing, restoring, and a hundred clones."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from boot import PROMPT
from console import Console
from figures import BenchmarkError, Figure, ratios
from peers import QEMU, command, guest_of
from request import Findings, Request

from gasang import Machine
from gasang.guest import default_guest

_TIMEOUT = 300.0
_CLONES = 100
_AT_ONCE = 4

COMMAND_MILLISECONDS = 150.0
OVER_QEMU = 0.1
RESTORE_MILLISECONDS = 20.0
FORK_MILLISECONDS = 15.0
CLONE_MEBIBYTES = 12.0


def measure(request: Request) -> Findings:
    """Each once a round. Raises `BenchmarkError`."""
    commands: list[float] = []
    boots: list[float] = []
    restores: list[float] = []
    _command()  # leaves the snapshot behind
    with tempfile.TemporaryDirectory(prefix="gasang-bench-") as directory:
        path = Path(directory) / "warm.snap"
        with Machine.boot(vsock=True) as machine:
            machine.run("true", timeout=_TIMEOUT, check=True)
            machine.snapshot(path)
        for _ in range(request.rounds):
            commands.append(1000 * _command())
            if QEMU in request.peers:
                boots.append(1000 * _boot_of_qemu())
            restores.append(1000 * _restore(path))
        figures = [
            Figure.of("snapshot: gasang run -- true", "ms", commands, COMMAND_MILLISECONDS),
            Figure.of("snapshot: to the first instruction", "ms", restores, RESTORE_MILLISECONDS),
            *_clones(path),
        ]
    if boots:
        figures.append(Figure.of("snapshot: QEMU's boot", "ms", boots))
        over = ratios(commands, boots)
        figures.append(Figure.of("snapshot: a command, over QEMU's boot", "times", over, OVER_QEMU))
    return Findings(figures=figures)


def _command() -> float:
    """Seconds of a whole process that runs a command."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "gasang", "run", "-q", "--", "true"], capture_output=True, check=False
    )
    if done.returncode:
        raise BenchmarkError(f"gasang run -- true ended with {done.returncode}: {done.stderr.decode()}")
    return time.perf_counter() - start


def _boot_of_qemu() -> float:
    default = default_guest()
    parts = default.kernel, default.initrd, default.append
    with guest_of(*parts) as guest, Console(command(QEMU, guest)) as console:
        console.expect(PROMPT, _TIMEOUT)
        return time.monotonic() - console.started


def _restore(path: Path) -> float:
    """Seconds until the guest has executed something."""
    start = time.perf_counter()
    with Machine.restore(path) as machine:
        while machine.registers()["rip"] == 0 or not machine.statistics().get("instructions"):
            pass
        return time.perf_counter() - start


def _clones(path: Path) -> Iterator[Figure]:
    """A hundred clones alive, each of which runs a command."""
    with Machine.restore(path) as machine:
        machine.run("true", timeout=_TIMEOUT, check=True)
        before = _private_bytes()
        start = time.perf_counter()
        clones = machine.fork(_CLONES, paused=True)
        seconds = time.perf_counter() - start
        try:
            memory = (_private_bytes() - before) / _CLONES / (1 << 20)
            yield Figure.of("snapshot: fork, each", "ms", [1000 * seconds / _CLONES], FORK_MILLISECONDS)
            yield Figure.of("snapshot: memory of a clone", "MiB", [memory], CLONE_MEBIBYTES)
            for clone in clones:
                clone.resume()
            start = time.perf_counter()
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                answers = list(pool.map(lambda clone: clone.run("hostname", timeout=_TIMEOUT), clones))
            seconds = time.perf_counter() - start
            if len({answer.stdout for answer in answers}) != _CLONES:
                raise BenchmarkError(f"of {_CLONES} clones not all answered: {answers[:3]}")
            yield Figure.of("snapshot: a command in each clone", "ms", [1000 * seconds / _CLONES])
        finally:
            for clone in clones:
                clone.stop()


def _private_bytes() -> int:
    """Memory that this process alone has."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    sizes = {name: int(rest.split()[0]) for name, rest in (line.split(":", 1) for line in lines)}
    return (sizes["Private_Clean"] + sizes["Private_Dirty"]) << 10
