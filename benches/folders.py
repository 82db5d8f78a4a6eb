"""Small files in a folder of the host's, beside QEMU with 9p."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from boot import PROMPT
from console import Console
from figures import Figure, ratios
from peers import GASANG, NATIVE, QEMU, Guest, command, guest_of
from request import Findings, Request
from user import compile_program

from gasang.guest import GENERIC_KERNEL, default_guest, default_initrd, fetch_kernel, fetch_modules
from gasang.guest.initramfs import File

_SOURCE = Path(__file__).with_name("guests") / "folder.c"
_TIMEOUT = 600.0
_FILES = 10_000
_PARTS = ("made", "listed", "removed")
_MODULES = ("virtio-pci", "virtiofs", "9p", "9pnet_virtio")
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
    with _guest() as guest:
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


@contextmanager
def _guest() -> Iterator[Guest]:
    """The default guest with the program and the drivers of both peers."""
    default = default_guest()
    with tempfile.TemporaryDirectory(prefix="gasang-bench-") as directory:
        compile_program("folder", Path(directory), _SOURCE)
        program = File("bin/folder", (Path(directory) / "folder").read_bytes(), 0o755)
        # The cloud's kernel has no 9p.
        initrd = default_initrd([*fetch_modules(_MODULES, GENERIC_KERNEL), program])
        with guest_of(fetch_kernel(GENERIC_KERNEL), initrd, default.append) as guest:
            yield guest


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
