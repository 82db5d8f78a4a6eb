"""A disk of the guest's, read in order and at random, beside QEMU with the same device and file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from boot import PROMPT
from console import Console
from device_guest import guest_with
from figures import Figure, ratios
from peers import GASANG, NATIVE, QEMU, Guest, command
from request import Findings, Request

_TIMEOUT = 300.0
_SIZE = 256 << 20

SECONDS_FOR_A_GIGABYTE = 2.0
MICROSECONDS_FOR_A_READ = 1e6 / 15_000
OVER_QEMU = 0.5
"""Of QEMU's time."""


IN_ORDER, PAST_CACHE, AT_RANDOM = "a gigabyte in order", "the same past the cache", "4 KiB at random"
"""What the guest does: as any program does it, and twice past the guest's page cache."""

_UNITS = {IN_ORDER: "s", PAST_CACHE: "s", AT_RANDOM: "µs"}
_BARS = {
    IN_ORDER: SECONDS_FOR_A_GIGABYTE,
    PAST_CACHE: SECONDS_FOR_A_GIGABYTE,
    AT_RANDOM: MICROSECONDS_FOR_A_READ,
}


def measure(request: Request) -> Findings:
    """Boot each peer once a round. Raises `BenchmarkError`."""
    peers = [peer for peer in request.peers if peer != NATIVE]
    times: dict[str, dict[str, list[float]]] = {peer: {what: [] for what in _UNITS} for peer in peers}
    with guest_with("disk", ["virtio-blk"]) as guest, _disk() as disk:
        for _ in range(request.rounds):
            for peer in peers:
                for what, taken in zip(_UNITS, _run(peer, guest, disk), strict=True):
                    times[peer][what].append(taken)
    return Findings(figures=[figure for peer in peers for figure in _figures(peer, times)])


def _figures(peer: str, times: dict[str, dict[str, list[float]]]) -> Iterator[Figure]:
    ours = peer == GASANG
    for what, unit in _UNITS.items():
        yield Figure.of(f"disk: {peer}: {what}", unit, times[peer][what], _BARS[what] if ours else None)
    if ours and QEMU in times:
        for what in _UNITS:
            compared = ratios(times[GASANG][what], times[QEMU][what])
            yield Figure.of(f"disk: {what}, over QEMU's", "times", compared, OVER_QEMU)


@contextmanager
def _disk() -> Iterator[Path]:
    """A disk image, all of it written."""
    with tempfile.TemporaryDirectory(prefix="gasang-bench-") as directory:
        disk = Path(directory) / "disk.img"
        disk.write_bytes(bytes(range(1, 256)) * (_SIZE // 255) + bytes(_SIZE % 255))
        yield disk


def _run(peer: str, guest: Guest, disk: Path) -> tuple[float, float, float]:
    """The times of what the guest does, in the order of the units."""
    with Console([*command(peer, guest), *_drive(peer, disk)]) as console:
        console.expect(PROMPT, _TIMEOUT)
        console.send("disk")
        found = console.expect(r"disk ([0-9.]+) ([0-9.]+) ([0-9]+)\r?\n", _TIMEOUT)
        return 1000 / float(found[1]), 1000 / float(found[2]), 1e6 / float(found[3])


def _drive(peer: str, disk: Path) -> list[str]:
    if peer == GASANG:
        return ["--drive", str(disk)]
    drive = f"file={disk},format=raw,if=none,id=disk"
    return ["-drive", drive, "-device", "virtio-blk-pci,drive=disk,disable-legacy=on"]
