"""The seam: what an exit to Python and the way back cost.

A guest writes an I/O port in a loop; each write is an exit.
Usage: python benches/exit_round_trip.py [bt|interp]
"""

from __future__ import annotations

import statistics
import sys
import threading
import time

from gasang import _engine

BAR_MICROSECONDS = 3.0
ROUNDS = 15
EXITS = 20_000

WRITE_PORT_FOREVER = b"\xe6\x80\xeb\xfc"
"""1: out 0x80, al; jmp 1b"""


def guest(accel: str, code: bytes = WRITE_PORT_FOREVER) -> _engine.Vcpu:
    """A processor in real mode that is about to execute `code`."""
    vm = _engine.Vm(memory=1 << 20, accel=accel)
    vm.write_memory(0x1000, code)
    vcpu = vm.vcpu(0)
    vcpu.set_registers(rip=0x1000, cs=_engine.Segment(0, 0, 0xFFFF, 0x9B))
    return vcpu


def measure(accel: str) -> list[float]:
    """Microseconds for each exit, one figure a round."""
    run = guest(accel).run
    figures = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(EXITS):
            run()
        figures.append((time.perf_counter() - start) / EXITS * 1e6)
    return figures


def main() -> int:
    """Print the figures; 1 if the bar is not met."""
    accel = sys.argv[1] if len(sys.argv) > 1 else "bt"
    figures: list[float] = []
    # In a thread of its own, as a machine's processors run.
    thread = threading.Thread(target=lambda: figures.extend(measure(accel)))
    thread.start()
    thread.join()
    median = statistics.median(figures)
    print(
        f"exit round trip ({accel}): median {median:.2f} µs, "
        f"{min(figures):.2f} to {max(figures):.2f}; the bar is {BAR_MICROSECONDS} µs"
    )
    return 0 if median <= BAR_MICROSECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
