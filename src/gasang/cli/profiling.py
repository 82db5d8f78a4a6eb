"""What `gasang run` tells of where its guest's time goes: the report of --profile, and for `gasang top`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from gasang import profile
from gasang.backends.streams import writer
from gasang.cli.arguments import UsageError
from gasang.errors import ConfigError
from gasang.machine import Machine
from gasang.profile.live import Publisher

_STDERR = "-"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gasang run` that measure."""
    profiling = parser.add_argument_group("profiling")
    profiling.add_argument(
        "--profile",
        metavar="FILE",
        nargs="?",
        const=_STDERR,
        help="say in the end where time went: to FILE, as JSON if it ends in .json (default: stderr)",
    )
    profiling.add_argument(
        "--count-blocks", action="store_true", help="count each block's executions for --profile; slower"
    )
    profiling.add_argument(
        "--name", metavar="NAME", help="what gasang calls it elsewhere (default: the kernel's)"
    )
    profiling.add_argument(
        "--perf-map", action="store_true", help="name translated code for perf, in /tmp/perf-PID.map"
    )
    profiling.add_argument(
        "--symbols",
        metavar="FILE[@ADDRESS]",
        action="append",
        default=[],
        help="a program of the guest, whose symbols name addresses; may be repeated",
    )


@contextmanager
def report_of(options: argparse.Namespace) -> Iterator[Callable[[Machine], None]]:
    """What to call with a machine that has ended. Raises `UsageError` for a file that cannot be made."""
    if options.count_blocks and options.profile is None:
        raise UsageError("--count-blocks needs --profile")
    if options.count_blocks and options.accel == "interp":
        raise UsageError("--count-blocks needs the translator: leave out --accel interp")
    if options.profile is None:
        yield lambda _: None
        return
    if options.profile == _STDERR:
        yield lambda machine: _write(2, profile.as_text(machine.profile()))
        return
    try:
        descriptor = os.open(options.profile, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UsageError(f"--profile {options.profile}: {error.strerror}") from error
    show = profile.as_json if options.profile.endswith(".json") else profile.as_text
    try:
        yield lambda machine: _write(descriptor, show(machine.profile()))
    finally:
        os.close(descriptor)


def _write(descriptor: int, text: str) -> None:
    with suppress(BrokenPipeError):
        writer(descriptor)(text.encode())


@contextmanager
def published(machine: Machine, options: argparse.Namespace) -> Iterator[None]:
    """Let `gasang top` see the machine. Where there is no place for that, it runs unseen."""
    config = machine.config
    name = options.name or (Path(options.kernel).name if options.kernel else "debian")
    with ExitStack() as stack:
        with suppress(ConfigError):
            stack.enter_context(Publisher(machine, name, config.cpus, config.memory, profiled=config.profile))
        yield


@contextmanager
def reported(machine: Machine, report: Callable[[Machine], None]) -> Iterator[None]:
    """Stop the machine after the block, however that ends, and report."""
    try:
        yield
    finally:
        machine.stop()
        report(machine)
