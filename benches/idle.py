"""What an idle guest costs: processor time and memory, at the shell's prompt.

Guest memory touched is what the memfd behind it has allocated. A machine's resident memory counts those of
its pages that are mapped, so the difference is what gasang itself needs: Python, the engine, translated code.
QEMU's guest memory is no file, so only its resident memory is told.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from boot import PROMPT
from console import Console
from figures import Figure
from peers import GASANG, NATIVE, Guest, command, guest_of
from request import Findings, Request

from gasang.guest import default_guest

_BOOT_TIMEOUT = 300.0
_SETTLE = 5.0
_WATCH = 15.0
_MEMORY_NAME = "gasang-ram"
_MIB = 1 << 20


def measure(request: Request) -> Findings:
    """Boot each peer once a round and watch it idle. Raises `BenchmarkError`."""
    default = default_guest()
    figures: list[Figure] = []
    with guest_of(default.kernel, default.initrd, default.append) as guest:
        for peer in request.peers:
            if peer == NATIVE:
                continue
            samples = [_watch(peer, guest) for _ in range(request.rounds)]
            shares, resident, beyond = (list(column) for column in zip(*samples, strict=True))
            figures.append(
                Figure.of(f"idle: {peer}: processor", "% of a core", shares, 2.0 if peer == GASANG else None)
            )
            figures.append(Figure.of(f"idle: {peer}: resident", "MiB", resident))
            if peer == GASANG:
                figures.append(Figure.of(f"idle: {peer}: beyond guest memory", "MiB", beyond, 150.0))
    return Findings(figures=figures)


def _watch(peer: str, guest: Guest) -> tuple[float, float, float]:
    """Percent of a core, MiB resident, MiB resident beyond the guest memory touched."""
    with Console(command(peer, guest)) as console:
        console.expect(PROMPT, _BOOT_TIMEOUT)
        time.sleep(_SETTLE)
        began, used = time.monotonic(), console.processor_seconds()
        time.sleep(_WATCH)
        share = 100 * (console.processor_seconds() - used) / (time.monotonic() - began)
        resident = _resident(console.process)
        touched = _guest_memory_touched(console.process)
    print(f"idle: {peer}: {share:.2f} %, {resident:.0f} MiB, guest memory {touched:.0f} MiB", flush=True)
    return share, resident, resident - touched


def _resident(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def _guest_memory_touched(process: int) -> float:
    """MiB that the memfd of guest memory has allocated; 0 if the peer has none."""
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        if _MEMORY_NAME in os.readlink(descriptor):
            return descriptor.stat().st_blocks * 512 / _MIB
    return 0.0
