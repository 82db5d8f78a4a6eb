"""Small files in a folder of the host's, beside QEMU with 9p."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from boot import PROMPT
from console import Console
from device_guest import guest_with
from figures import Figure, ratios
from peers import GASANG, NATIVE, QEMU, Guest, command
from request import Findings, Request

from gasang.guest import GENERIC_KERNEL

_TIMEOUT = 600.0
_FILES = 10_000
_PARTS = ("made", "listed", "removed")
_DRIVERS = ("virtiofs", "9p", "9pnet_virtio")
_MOUNT = {
    GASANG: "mount -t virtiofs gasang0 /mnt",
    QEMU: "mount -t 9p -o trans=virtio,version=9p2000.L,msize=1048576 gasang0 /mnt",
}

_PLACE = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""In memory: making a file on a disk of the host's may take longer than all that is measured."""

OVER_QEMU = 1.0
"""Of QEMU's time, over all."""


def measure(request: Request) -> Findings:
    """Boot each peer once a round. Raises `BenchmarkError`."""
    peers = [peer for peer in request.peers if peer != NATIVE]
    times: dict[str, list[tuple[float, ...]]] = {peer: [] for peer in peers}
    # The cloud's kernel has no 9p.
    with guest_with("folder", _DRIVERS, GENERIC_KERNEL) as guest:
        for _ in range(request.rounds):
            for peer in peers:
                with tempfile.TemporaryDirectory(prefix="gasang-bench-", dir=_PLACE) as folder:
                    times[peer].append(_run(peer, guest, folder))
    return Findings(figures=list(_figures(times)))


def _figures(times: dict[str, list[tuple[float, ...]]]) -> Iterator[Figure]:
    for peer, rounds in times.items():
        for part, seconds in zip(_PARTS, zip(*rounds, strict=True), strict=True):
            yield Figure.of(f"folder: {peer}: {_FILES} files {part}", "s", list(seconds))
    if GASANG in times and QEMU in times:
        ours, theirs = ([sum(seconds) for seconds in times[peer]] for peer in (GASANG, QEMU))
        yield Figure.of("folder: all of it, over QEMU's", "times", ratios(ours, theirs), OVER_QEMU)


def _run(peer: str, guest: Guest, folder: str) -> tuple[float, ...]:
    """Seconds of each part."""
    with Console([*command(peer, guest), *_shared(peer, folder)]) as console:
        console.expect(PROMPT, _TIMEOUT)
        console.send(
            f"modprobe -a virtiofs 9p 9pnet_virtio; mkdir /mnt; {_MOUNT[peer]}; folder /mnt {_FILES}"
        )
        found = console.expect(r"seconds ([0-9.]+) ([0-9.]+) ([0-9.]+)\r?\n", _TIMEOUT)
        return tuple(float(found[number]) for number in (1, 2, 3))


def _shared(peer: str, folder: str) -> list[str]:
    if peer == GASANG:
        return ["-v", f"{folder}:/mnt"]
    return ["-virtfs", f"local,path={folder},mount_tag=gasang0,security_model=none"]
