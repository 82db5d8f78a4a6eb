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


def measure(request: Request) -> Findings:
    """Boot each peer once a round. Raises `BenchmarkError`."""
    peers = [peer for peer in request.peers if peer != NATIVE]
    in_order: dict[str, list[float]] = {peer: [] for peer in peers}
    at_random: dict[str, list[float]] = {peer: [] for peer in peers}
    with guest_with("disk", ["virtio-blk"]) as guest, _disk() as disk:
        for _ in range(request.rounds):
            for peer in peers:
                megabytes, reads = _run(peer, guest, disk)
                in_order[peer].append(1000 / megabytes)
                at_random[peer].append(1e6 / reads)
    return Findings(figures=[figure for peer in peers for figure in _figures(peer, in_order, at_random)])


def _figures(
    peer: str, in_order: dict[str, list[float]], at_random: dict[str, list[float]]
) -> Iterator[Figure]:
    ours = peer == GASANG
    gigabyte, read = (SECONDS_FOR_A_GIGABYTE, MICROSECONDS_FOR_A_READ) if ours else (None, None)
    yield Figure.of(f"disk: {peer}: a gigabyte in order", "s", in_order[peer], gigabyte)
    yield Figure.of(f"disk: {peer}: 4 KiB at random", "µs", at_random[peer], read)
    if ours and QEMU in in_order:
        for name, times in (("in order", in_order), ("at random", at_random)):
            compared = ratios(times[GASANG], times[QEMU])
            yield Figure.of(f"disk: {name}, over QEMU's", "times", compared, OVER_QEMU)


@contextmanager
def _disk() -> Iterator[Path]:
    """A disk image, all of it written."""
    with tempfile.TemporaryDirectory(prefix="gasang-bench-") as directory:
        disk = Path(directory) / "disk.img"
        disk.write_bytes(bytes(range(1, 256)) * (_SIZE // 255) + bytes(_SIZE % 255))
        yield disk


def _run(peer: str, guest: Guest, disk: Path) -> tuple[float, float]:
    """Megabytes a second in order, and reads of 4 KiB a second at random."""
    with Console([*command(peer, guest), *_drive(peer, disk)]) as console:
        console.expect(PROMPT, _TIMEOUT)
        console.send("disk")
        found = console.expect(r"disk ([0-9.]+) ([0-9]+)\r?\n", _TIMEOUT)
        return float(found[1]), float(found[2])


def _drive(peer: str, disk: Path) -> list[str]:
    if peer == GASANG:
        return ["--drive", str(disk)]
    drive = f"file={disk},format=raw,if=none,id=disk"
    return ["-drive", drive, "-device", "virtio-blk-pci,drive=disk,disable-legacy=on"]
