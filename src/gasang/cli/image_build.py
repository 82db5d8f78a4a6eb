"""`gasang image build`: a Debian as a container image or a disk, made without root in a guest of its own."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gasang.cli.report import say
from gasang.errors import GuestImageError
from gasang.guest.agent_package import agent_package
from gasang.guest.packages import Progress
from gasang.guest.userland import BOOTABLE, EXPORT, INSTALL, WRITE_DISK, check_names, unpacked_userland
from gasang.machine import Machine
from gasang.rootfs.archive import ImageConfig
from gasang.rootfs.write import write_image
from gasang.storage.create import create_qcow2, create_raw
from gasang.units import parse_size
from gasang.whole_file import replacing

_INSTALL_SECONDS = 3600.0
_CHUNK = 1 << 20
_TAIL = 12
"""Lines of a failed installation that are shown."""

_CONFIG = ImageConfig(
    env=("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",), command=("bash",)
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gasang image build`."""
    parser.add_argument(
        "--include",
        metavar="PACKAGE,...",
        action="append",
        default=[],
        help="packages beside Debian's essential ones and apt; may be repeated",
    )
    parser.add_argument(
        "-m",
        "--memory",
        metavar="SIZE",
        default="2G",
        help="of the guest that installs (default: %(default)s)",
    )
    parser.add_argument("-c", "--cpus", metavar="N", type=int, default=2, help="its processors (default: 2)")
    parser.add_argument(
        "--disk", metavar="SIZE", help="make a disk that boots by itself (raw, or qcow2 if FILE ends so)"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
    parser.add_argument("system", metavar="debian", choices=("debian",), help="what it is to be")
    parser.add_argument(
        "file", metavar="FILE", help="the image, for gasang run --rootfs FILE, docker load, ..."
    )


def build(options: argparse.Namespace) -> None:
    """Make it. Raises `ConfigError`, `GuestImageError`, and what the guest's end raises."""
    names = [name for each in options.include for name in each.split(",") if name]
    check_names(names)
    memory = parse_size(options.memory)
    disk = None if options.disk is None else parse_size(options.disk)
    progress = None if options.quiet else say
    target = Path(options.file)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as place:
            wanted = _Wanted(target, names, Path(place), memory, options.cpus, progress)
            if disk is None:
                _build_image(wanted)
            else:
                _build_disk(wanted, disk)
    except OSError as error:
        raise GuestImageError(f"image {target}: {error.strerror or error}") from error


@dataclass(frozen=True)
class _Wanted:
    """What is to be made, and where."""

    target: Path
    names: list[str]
    place: Path
    memory: int
    cpus: int
    progress: Progress | None

    def tell(self, line: str) -> None:
        if self.progress:
            self.progress(line)


def _build_image(wanted: _Wanted) -> None:
    target = wanted.target
    with replacing(target) as file:
        root = unpacked_userland(wanted.names, wanted.place, wanted.progress)
        with Machine.boot(rootfs=root, memory=wanted.memory, cpus=wanted.cpus) as machine:
            _install(machine, wanted)
            wanted.tell(f"writing {target}")
            write_image(file, _exported(machine), _CONFIG, name=target.stem, directory=wanted.place)


def _build_disk(wanted: _Wanted, size: int) -> None:
    """A disk that boots by itself, with the guest's agent; it gets its name when it is whole."""
    target = wanted.target
    disk = wanted.place / f"disk{target.suffix}"
    if target.suffix == ".qcow2":
        create_qcow2(disk, size)
    else:
        create_raw(disk, size)
    more = {"gasang-agent.deb": agent_package()}
    root = unpacked_userland([*BOOTABLE, *wanted.names], wanted.place, wanted.progress, more=more)
    with Machine.boot(rootfs=root, memory=wanted.memory, cpus=wanted.cpus, drives=[disk]) as machine:
        _install(machine, wanted)
        wanted.tell(f"writing {target}")
        _run(machine, WRITE_DISK, "the disk cannot be written")
    os.rename(disk, target)


def _install(machine: Machine, wanted: _Wanted) -> None:
    """Have every package's scripts run. Raises `GuestImageError`."""
    wanted.tell("installing them in a guest, which takes a minute or more")
    _run(machine, INSTALL, "the packages cannot be installed")


def _run(machine: Machine, script: str, complaint: str) -> None:
    done = machine.run(script, timeout=_INSTALL_SECONDS)
    if done.returncode:
        lines = (done.stdout + done.stderr).decode(errors="replace").splitlines()
        tail = "\n".join(lines[-_TAIL:])
        raise GuestImageError(f"{complaint}:\n{tail}")


def _exported(machine: Machine) -> Iterator[bytes]:
    """The guest's root as a tar, in pieces. Raises `GuestImageError` if it is not all."""
    with machine.popen(EXPORT) as process:
        while piece := process.stdout.read1(_CHUNK):
            yield piece
        said = process.stderr.read().decode(errors="replace").strip()
        if process.wait():
            raise GuestImageError(f"the installed system cannot be copied: {said}")
