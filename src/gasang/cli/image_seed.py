"""`gasang image seed` and `gasang image agent`: what images of others need to be used here."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from gasang.cli.arguments import UsageError
from gasang.errors import GuestImageError
from gasang.whole_file import replacing

_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,62}[A-Za-z0-9])?(\.[A-Za-z0-9-]{1,63})*")


def add_seed_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gasang image seed`."""
    parser.add_argument("--hostname", metavar="NAME", help="what the guest is to be called")
    parser.add_argument(
        "--ssh-key", metavar="FILE", action="append", default=[], help="who may log in; may be repeated"
    )
    parser.add_argument("--password", metavar="TEXT", help="of the image's own user")
    parser.add_argument(
        "--user-data", metavar="FILE", help="cloud-init's user-data, in the place of these two"
    )
    parser.add_argument("--network-config", metavar="FILE", help="cloud-init's network-config")
    parser.add_argument("--agent", action="store_true", help="have gasang's agent installed")
    parser.add_argument("file", metavar="FILE")


def add_agent_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gasang image agent`."""
    parser.add_argument("file", metavar="FILE.deb")


def make_seed(options: argparse.Namespace) -> None:
    """Write the seed. Raises `UsageError`, `GuestImageError`."""
    from gasang.guest.seed import seed_files, seed_image  # noqa: PLC0415 - slow to load

    if options.hostname is not None and not _HOSTNAME.fullmatch(options.hostname):
        raise UsageError(f"--hostname {options.hostname}: that is no host name")
    if options.user_data and (options.ssh_key or options.password is not None):
        raise UsageError("--user-data says it all: leave out --ssh-key and --password")
    keys = [_key(Path(each)) for each in options.ssh_key]
    files = seed_files(
        hostname=options.hostname,
        ssh_keys=keys,
        password=options.password,
        agent=options.agent,
        user_data=None if options.user_data is None else _content("--user-data", options.user_data),
        network=None
        if options.network_config is None
        else _content("--network-config", options.network_config),
    )
    _write(Path(options.file), seed_image(files))


def make_agent(options: argparse.Namespace) -> None:
    """Write the agent's package. Raises `GuestImageError`."""
    from gasang.guest.agent_package import agent_package  # noqa: PLC0415 - as above

    _write(Path(options.file), agent_package())


def _key(path: Path) -> str:
    """A public key. Raises `UsageError`: a private one is not for others."""
    text = _content("--ssh-key", str(path)).decode("utf-8", "replace").strip()
    if "PRIVATE KEY" in text:
        raise UsageError(f"--ssh-key {path}: that is the private key; give the public one, {path}.pub")
    if not text or "\n" in text:
        raise UsageError(f"--ssh-key {path}: that is no public key")
    return text


def _content(option: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror}") from error


def _write(path: Path, content: bytes) -> None:
    try:
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise GuestImageError(f"image {path}: {error.strerror}") from error
