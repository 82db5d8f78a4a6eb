"""`gasang image build`: a Debian userland as a container image, made without root in a guest of its own."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gasang.cli.report import say
from gasang.errors import GuestImageError
from gasang.guest.userland import EXPORT, INSTALL, check_names, unpacked_userland
from gasang.machine import Machine
from gasang.rootfs.archive import ImageConfig
from gasang.rootfs.write import write_image
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
    progress = None if options.quiet else say
    target = Path(options.file)
    try:
        with (
            replacing(target) as file,
            tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as place,
        ):
            root = unpacked_userland(names, Path(place), progress)
            with Machine.boot(rootfs=root, memory=memory, cpus=options.cpus) as machine:
                _install(machine, progress)
                if progress:
                    progress(f"writing {target}")
                write_image(file, _exported(machine), _CONFIG, name=target.stem, directory=Path(place))
    except OSError as error:
        raise GuestImageError(f"image {target}: {error.strerror or error}") from error


def _install(machine: Machine, progress: object) -> None:
    """Have every package's scripts run. Raises `GuestImageError`."""
    if progress:
        say("installing them in a guest, which takes a minute or more")
    done = machine.run(INSTALL, timeout=_INSTALL_SECONDS)
    if done.returncode:
        lines = (done.stdout + done.stderr).decode(errors="replace").splitlines()
        tail = "\n".join(lines[-_TAIL:])
        raise GuestImageError(f"the packages cannot be installed:\n{tail}")


def _exported(machine: Machine) -> Iterator[bytes]:
    """The guest's root as a tar, in pieces. Raises `GuestImageError` if it is not all."""
    with machine.popen(EXPORT) as process:
        while piece := process.stdout.read1(_CHUNK):
            yield piece
        said = process.stderr.read().decode(errors="replace").strip()
        if process.wait():
            raise GuestImageError(f"the installed system cannot be copied: {said}")
