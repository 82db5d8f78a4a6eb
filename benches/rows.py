"""The rows of the comparison, the sets whose geometric means are told, and the bars: only data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bar:
    """What gasang is held to; None where it is held to nothing."""

    native: float | None = None
    """Its time over native time, at most."""
    qemu: float | None = None
    """How many times faster than QEMU, at least."""


NOT_SLOWER = Bar(qemu=1.0)
"""The least that is asked of every row."""

SETS: dict[str, dict[str, Bar]] = {
    "integer": dict.fromkeys(
        ("sha256", "bytecode", "sort", "calls", "compress", "recursion", "muldiv", "hashing"), NOT_SLOWER
    ),
    "vector": dict.fromkeys(
        ("nbody", "mandelbrot", "x87", "matmul", "avx2", "fma", "aes", "sha", "blur"), NOT_SLOWER
    ),
    "memory": {"streaming": Bar(2.0, 12.0), "rep_movs": Bar(2.0, 12.0), "aliasing": NOT_SLOWER},
    "chases": {"chase_l1": Bar(2.5, 1.0), "chase_l2": Bar(2.5, 1.0), "chase_ram": Bar(2.5, 1.0)},
    "system": {
        "syscall": Bar(2.5, 2.0),
        "page_fault": Bar(2.5, 2.5),
        "fork": Bar(6.0, 4.0),
        "exec": Bar(6.0, 4.0),
        "mmap": Bar(6.0, 4.0),
        "pipe": Bar(5.0, 6.0),
        "signals": Bar(5.0, 6.0),
        "files": Bar(5.0, 6.0),
    },
    "code": {"rewrite": Bar(qemu=4.0), "flip": Bar(qemu=4.0), "first_run": Bar(60.0, 10.0)},
}
"""The programs in programs/ by set, each with its bar."""

ALL_ROWS = "all rows"
MEANS: dict[str, Bar] = {"integer": Bar(2.0, 2.5), "vector": Bar(2.0, 25.0), ALL_ROWS: Bar(3.0, 6.0)}
"""The bars of geometric means: of a set's rows, and of the rows of all sets."""

BOOT: dict[str, Bar] = {"pc": Bar(qemu=2.0), "pc-max": NOT_SLOWER, "microvm": Bar(qemu=1.0)}
"""From the start of the process to the shell's prompt, against each of QEMU's contestants."""

PARALLEL = Bar(qemu=1.0)
PARALLEL_SCALING = 1.8
"""How many times faster two processors do two processes' work than one does, at least."""

NESTED = 2.0
"""How long a boot in a guest may take, in boots of the guest itself."""
