"""Boot to userspace: from the start of the process to the prompt of the default guest's shell."""

from __future__ import annotations

import time

from console import Console
from figures import BenchmarkError, Figure, ratios
from peers import GASANG, QEMU, Guest, command, guest_of
from request import Request

from gasang.guest import default_guest

PROMPT = "gasang:~# "
_TIMEOUT = 300.0

# QEMU with the processor model that it takes by itself, too: it offers fewer features for guests to set up.
_CONTESTANTS = {GASANG: (GASANG, ""), QEMU: (QEMU, "max"), "qemu-qemu64": (QEMU, "qemu64")}


def measure(request: Request) -> list[Figure]:
    """Boot each contestant once a round, in turn; seconds, and ours over each of QEMU's.

    `request.only` names contestants. Raises `BenchmarkError`.
    """
    default = default_guest()
    names = [
        name for name, (peer, _) in _CONTESTANTS.items() if peer in request.peers and request.wants(name)
    ]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with guest_of(default.kernel, default.initrd, default.append) as guest:
        for number in range(1, request.rounds + 1):
            for name in names:
                seconds[name].append(_boot(name, guest, request.processor_time))
            times = ", ".join(f"{name} {seconds[name][-1]:.2f} s" for name in names)
            print(f"boot, round {number}: {times}", flush=True)
    return _figures(seconds)


def _boot(name: str, guest: Guest, processor_time: bool) -> float:
    peer, cpu = _CONTESTANTS[name]
    with Console(command(peer, guest, cpu)) as console:
        try:
            console.expect(PROMPT, _TIMEOUT)
        except BenchmarkError as error:
            raise BenchmarkError(f"{name} did not boot: {error}") from error
        if processor_time:
            return console.processor_seconds()
        return time.monotonic() - console.started


def _figures(seconds: dict[str, list[float]]) -> list[Figure]:
    figures = [Figure.of(f"boot: {name}", "s", times) for name, times in seconds.items()]
    if GASANG in seconds:
        figures += [
            Figure.of(f"boot: {GASANG} / {name}", "x", ratios(seconds[GASANG], times), bar=1.0)
            for name, times in seconds.items()
            if name != GASANG
        ]
    return figures
