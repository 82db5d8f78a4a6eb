"""`gasang image`: makes images of disks and of systems, and says what one is."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from gasang.cli import image_build, image_seed
from gasang.cli.arguments import UsageError
from gasang.config import Drive
from gasang.storage import open_image
from gasang.storage.create import create_qcow2, create_raw
from gasang.storage.qcow2 import Qcow2Image
from gasang.units import format_size, parse_size

_EPILOG = """\
examples:
  gasang image create disk.qcow2 10G
  gasang image create --format raw disk.img 1G
  gasang image create --backing base.qcow2 mine.qcow2     what is written goes to mine.qcow2 alone
  gasang image info --json disk.qcow2
  gasang image build debian debian.tar --include python3
  gasang image seed seed.iso --hostname box --ssh-key ~/.ssh/id_ed25519.pub --agent
  gasang image agent gasang-agent.deb && gasang cp gasang-agent.deb box:/tmp
  gasang run --rootfs debian.tar -- cat /etc/os-release
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gasang image`."""
    parser.description = "Make an image of a disk or of a system, or say what a disk image is."
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", metavar="create|info|build|seed|agent", required=True)
    create = actions.add_parser("create", help="make an image")
    create.add_argument("--format", choices=("qcow2", "raw"), default="qcow2", help="(default: qcow2)")
    create.add_argument("--backing", metavar="FILE", help="an image that has what this one does not")
    create.add_argument("file", metavar="FILE")
    create.add_argument("size", metavar="SIZE", nargs="?", help="of the disk; the backing file's by default")
    info = actions.add_parser("info", help="say what an image is")
    info.add_argument("--json", action="store_true", help="for programs: an object")
    info.add_argument("file", metavar="FILE")
    build = actions.add_parser("build", help="make a Debian system for gasang run --rootfs")
    image_build.add_options(build)
    seed = actions.add_parser("seed", help="make a disk that tells a cloud image who it is (cloud-init)")
    image_seed.add_seed_options(seed)
    agent = actions.add_parser("agent", help="make a Debian package of the guest's agent")
    image_seed.add_agent_options(agent)


def main(options: argparse.Namespace) -> int:
    """Do it; 0. Raises `ConfigError` and `UsageError`."""
    actions = {
        "create": _create,
        "info": _inform,
        "build": image_build.build,
        "seed": image_seed.make_seed,
        "agent": image_seed.make_agent,
    }
    actions[options.action](options)
    return 0


def _create(options: argparse.Namespace) -> None:
    size = None if options.size is None else _size(options.size)
    if options.format == "raw":
        if options.backing:
            raise UsageError("--backing needs --format qcow2")
        if size is None:
            raise UsageError(f"image {options.file}: say how large its disk is to be")
        create_raw(Path(options.file), size)
    else:
        create_qcow2(Path(options.file), size, Path(options.backing) if options.backing else None)


def _size(text: str) -> int:
    """A bare number is MiB to some programs and bytes to others: neither here. Raises `UsageError`."""
    if text.isdecimal():
        raise UsageError(f"size {text}: write a unit, such as {text}M or {text}G")
    return parse_size(text)


def _inform(options: argparse.Namespace) -> None:
    image = open_image(Drive(Path(options.file), readonly=True))
    try:
        header = image.header if isinstance(image, Qcow2Image) else None
        found = {
            "file": options.file,
            "format": "raw" if header is None else "qcow2",
            "size": image.size,
            "allocated": os.stat(options.file).st_blocks * 512,
            "backing": None if header is None or not header.backing else header.backing,
        }
    finally:
        image.close()
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print(f"{found['file']}: {found['format']}, a disk of {format_size(image.size)}")
    print(f"takes {format_size(os.stat(options.file).st_blocks * 512)} of the host")
    if found["backing"]:
        print(f"based on {found['backing']}")
