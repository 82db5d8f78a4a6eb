"""A guest in a guest: the default guest boots in QEMU with KVM, in a guest of ours, and in gasang itself:
each from the start of its machine to the prompt of its shell.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from boot import PROMPT
from console import Console
from figures import Figure, ratios
from peers import GASANG, Guest, command, guest_of
from request import Findings, Request
from rows import NESTED

from gasang.guest import APPEND, default_guest

sys.path.append(str(Path(__file__).parents[1] / "guests"))

import hypervisors

NAME = "nested"
_MEMORY = 2048
_TIMEOUT = 300.0


def measure(request: Request) -> Findings:
    """Boot the guest, and a host of one with the guest in it, in turn. Raises `BenchmarkError`."""
    if not request.wants(NAME) or GASANG not in request.peers:
        return Findings()
    default, host = default_guest(), hypervisors.qemu()
    plain: list[float] = []
    nested: list[float] = []
    with (
        guest_of(default.kernel, default.initrd, APPEND) as guest,
        guest_of(host.kernel, host.initrd, APPEND, _MEMORY) as outer,
    ):
        for number in range(1, request.rounds + 1):
            plain.append(_boot(guest, request.processor_time))
            nested.append(_boot_inside(outer, request.processor_time))
            print(f"nested, round {number}: {plain[-1]:.2f} s, inside {nested[-1]:.2f} s", flush=True)
    return Findings(
        figures=[
            Figure.of("nested: boot", "s", plain),
            Figure.of("nested: boot inside", "s", nested),
            Figure.of("nested: boot inside / boot", "x", ratios(nested, plain), NESTED),
        ]
    )


def _boot(guest: Guest, processor_time: bool) -> float:
    with Console(command(GASANG, guest)) as console:
        console.expect(PROMPT, _TIMEOUT)
        return console.processor_seconds() if processor_time else time.monotonic() - console.started


def _boot_inside(host: Guest, processor_time: bool) -> float:
    """The host boots, which does not count, and loads KVM; then its guest boots."""
    with Console(command(GASANG, host)) as console:
        console.expect(PROMPT, _TIMEOUT)
        console.send("modprobe kvm-intel")
        console.expect(PROMPT, _TIMEOUT)
        began, used = time.monotonic(), console.processor_seconds()
        console.send(hypervisors.qemu_command())
        console.expect(PROMPT, _TIMEOUT)
        return console.processor_seconds() - used if processor_time else time.monotonic() - began
