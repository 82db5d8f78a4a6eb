"""Boot to userspace: from the start of the process to the prompt of the default guest's shell.

QEMU takes part as its `pc` with the processor model that it takes by itself, which offers fewer features for
a guest to set up and so is its fastest; as `pc` with every feature; and as its machine for quick boots, there
without ACPI: with it the kernel finds no serial port.
"""

from __future__ import annotations

import time

from comparison import Comparison
from console import Console
from figures import BenchmarkError, Figure
from peers import GASANG, QEMU, Guest, Model, command, guest_of
from request import Findings, Request
from rows import BOOT

from gasang.guest import default_guest

PROMPT = "gasang:~# "
_TIMEOUT = 300.0

_MODELS = {
    "pc": Model("pc", "qemu64"),
    "pc-max": Model("pc", "max"),
    "microvm": Model("microvm,acpi=off", "qemu64"),
}


def measure(request: Request) -> Findings:
    """Boot gasang and each model of QEMU once a round, in turn. `request.only` names models, or gasang.

    Raises `BenchmarkError`.
    """
    default = default_guest()
    names = [name for name in (GASANG, *_MODELS) if request.wants(name) and _peer(name) in request.peers]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with guest_of(default.kernel, default.initrd, default.append) as guest:
        for number in range(1, request.rounds + 1):
            for name in names:
                seconds[name].append(_boot(name, guest, request.processor_time))
            times = ", ".join(f"{name} {seconds[name][-1]:.2f} s" for name in names)
            print(f"boot, round {number}: {times}", flush=True)
    return _findings(seconds)


def _peer(name: str) -> str:
    return QEMU if name in _MODELS else name


def _boot(name: str, guest: Guest, processor_time: bool) -> float:
    with Console(command(_peer(name), guest, _MODELS.get(name))) as console:
        try:
            console.expect(PROMPT, _TIMEOUT)
        except BenchmarkError as error:
            raise BenchmarkError(f"{name} did not boot: {error}") from error
        if processor_time:
            return console.processor_seconds()
        return time.monotonic() - console.started


def _findings(seconds: dict[str, list[float]]) -> Findings:
    figures = [Figure.of(f"boot: {name}", "s", times) for name, times in seconds.items()]
    if GASANG not in seconds:
        return Findings(figures=figures)
    comparisons = [
        Comparison.of(f"boot: {name}", "boot", {GASANG: seconds[GASANG], QEMU: times}, BOOT[name])
        for name, times in seconds.items()
        if name in BOOT
    ]
    return Findings(comparisons, figures)
