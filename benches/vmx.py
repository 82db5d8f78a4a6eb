"""A hypervisor in the guest that times itself (guests/hypervisor.c): VM exits, and its guest beside
itself."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from figures import BenchmarkError, Figure
from request import Findings, Request

from gasang import Machine

sys.path.append(str(Path(__file__).parents[1] / "guests"))

from guest_programs import Builder, Program

ROUND_TRIP_BAR = 1.0
COMPUTE_BAR = 1.1
_TIMEOUT = 120.0


def measure(request: Request) -> Findings:
    """Boot the hypervisor once a round. Raises `BenchmarkError` if it does not come to its end."""
    with tempfile.TemporaryDirectory(prefix="gasang-bench-") as directory:
        program = Program("hypervisor", "long", ("vmx",), folder=Path(__file__).with_name("guests"))
        kernel = Builder(Path(directory)).build(program)
        rounds = [_run(kernel) for _ in range(request.rounds)]
    round_trips = [each["round_trip"] / 1e6 for each in rounds]
    compute = [each["guest"] / each["host"] for each in rounds]
    return Findings(
        figures=[
            Figure.of("vmx: CPUID exit and back", "µs", round_trips, ROUND_TRIP_BAR),
            Figure.of("vmx: compute in L2 over L1", "times", compute, COMPUTE_BAR),
        ]
    )


def _run(kernel: Path) -> dict[str, int]:
    with Machine.boot(kernel=kernel, memory="32M") as machine:
        machine.wait(_TIMEOUT)
        lines = machine.debug_console.log.decode(errors="replace").splitlines()
    told = [line.split(" ") for line in lines if not line.startswith("ok ")]
    try:
        return {name: int(value, 16) for name, value in told}
    except ValueError:
        raise BenchmarkError(f"vmx: the hypervisor said: {lines[-1]}") from None
