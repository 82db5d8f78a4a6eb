"""`gasang restore`: a machine that goes on where one was of which there is a snapshot."""

from __future__ import annotations

import argparse

from gasang.cli import network
from gasang.cli.arguments import UsageError
from gasang.config import ACCELERATORS
from gasang.errors import SnapshotError
from gasang.machine import Machine
from gasang.snapshot import Snapshot

_EPILOG = """\
With `-- CMD`, the command runs in the machine; its streams and exit code are ours. With -d, the machine
stays in the background, for gasang exec NAME.

examples:
  gasang snapshot box warm.snap
  gasang restore warm.snap -- uname -a
  gasang restore -d --name other warm.snap
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gasang restore`."""
    parser.description = "Go on where a machine was that is in a snapshot."
    parser.usage = "gasang restore [OPTION...] FILE [-- CMD [ARG...]]"
    parser.epilog = _EPILOG
    parser.add_argument("file", metavar="FILE", help="the snapshot")
    parser.add_argument("-d", "--detach", action="store_true", help="leave it in the background")
    parser.add_argument("--name", metavar="NAME", default="restored", help="what it is called there")
    parser.add_argument(
        "--accel", choices=ACCELERATORS, help="what executes it (default: as it was asked then)"
    )
    network.add_options(parser)
    parser.add_argument(
        "--check", action="store_true", help="read all of the file, and say whether it is whole"
    )


def main(options: argparse.Namespace) -> int:
    """Restore it; the exit code of the command. Raises `UsageError`, `GasangError`."""
    asked = [options.detach, options.command is not None, options.check]
    if sum(asked) != 1:
        raise UsageError("one of these: a command behind --, as in gasang restore FILE -- uname; -d; --check")
    if options.check:
        return _check(options.file)
    if options.detach:
        from gasang.cli import holder  # noqa: PLC0415 - slow to load, and not always needed

        Snapshot.open(options.file).close()
        holder.start(lambda: _restored(options), options.name)
        holder.say_name(options.name)
        return 0
    if not options.command:
        raise UsageError("no command behind --: write one, as in gasang restore FILE -- uname -a")
    from gasang.cli.session import Session  # noqa: PLC0415 - slow to load, and not always needed

    with _restored(options) as machine:
        return Session(machine).run_command(options.command)


def _restored(options: argparse.Namespace) -> Machine:
    wanted = network.asked_for(options)
    machine = Machine.restore(options.file, accel=options.accel, net=wanted)
    return network.published(machine, options)


def _check(file: str) -> int:
    from gasang.machine.snapshots import check  # noqa: PLC0415 - slow to load, and not always needed

    with Snapshot.open(file) as snapshot:
        if not check(snapshot):
            raise SnapshotError(f"snapshot {file}: damaged: the checksum of its RAM is another")
    return 0
