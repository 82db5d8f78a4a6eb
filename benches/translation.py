"""What translating costs: nanoseconds an instruction of guest code, end to end, over a boot."""

from __future__ import annotations

from boot import PROMPT
from figures import Figure
from request import Findings, Request

import gasang

_TIMEOUT = 300.0


def measure(request: Request) -> Findings:
    """Boot the default guest in this process once a round; what the engine counted."""
    costs, translated = [], []
    for number in range(1, request.rounds + 1):
        counts = _counts_of_a_boot()
        translated.append(counts["instructions_translated"])
        costs.append(counts["translation_nanoseconds"] / counts["instructions_translated"])
        print(f"translation, round {number}: {costs[-1]:.0f} ns an instruction", flush=True)
        told = (f"{name} {count}" for name, count in sorted(counts.items()) if count)
        print("  " + ", ".join(told), flush=True)
    return Findings(
        figures=[
            Figure.of("translation: an instruction", "ns", costs, bar=1000),
            Figure.of("translation: a boot", "instructions", translated),
        ]
    )


def _counts_of_a_boot() -> dict[str, int]:
    with gasang.Machine.boot(accel="bt") as machine:
        machine.console.expect(PROMPT, timeout=_TIMEOUT)
        return machine.statistics()
