"""A command of the guest's as the command line asks for it: its environment, directory, user and terminal."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from gasang.backends.console import in_background
from gasang.backends.streams import Descriptor, writer
from gasang.backends.terminal import raw_mode
from gasang.cli.arguments import UsageError
from gasang.guest.guest_process import GuestProcess
from gasang.guest.vsock_agent import VsockAgent

_STDIN, _STDOUT = 0, 1
_CHUNK = 4096


def add_options(parser: argparse._ActionsContainer) -> None:
    """What `gasang run` and `gasang exec` have in common."""
    parser.add_argument("-t", "--tty", action="store_true", help="give the command a terminal: this one")
    parser.add_argument(
        "-e", "--env", metavar="K=V", action="append", default=[], help="its environment; may be repeated"
    )
    parser.add_argument(
        "-w", "--workdir", metavar="DIR", help="its directory (default: root's, or the image's)"
    )
    parser.add_argument(
        "-u", "--user", metavar="USER[:GROUP]", help="who it is (default: root, or the image's)"
    )


def environment_of(options: argparse.Namespace) -> dict[str, str]:
    """Raises `UsageError`."""
    return dict(map(_pair, options.env))


def check_terminal(options: argparse.Namespace) -> None:
    """Raises `UsageError` where a terminal is asked for, and there is none."""
    if options.tty and not (os.isatty(_STDIN) and os.isatty(_STDOUT)):
        raise UsageError("-t needs a terminal: stdin or stdout is none")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError(f"-e {text}: write NAME=VALUE")
    return name, value


@contextmanager
def on_terminal(
    agent: VsockAgent, command: Sequence[str], *, env: Mapping[str, str], cwd: str | None, user: str | None
) -> Iterator[Callable[[], int]]:
    """Our terminal, in raw mode, is that of a command, which ends with the block.

    What to do meanwhile, in any thread: pass everything on until there is an exit code. For the main thread,
    as signals are.
    """
    terminal = os.environ.get("TERM")
    if terminal:
        env = {"TERM": terminal, **env}
    process = agent.popen(command, env=env, cwd=cwd, user=user, terminal=_terminal_size())
    with process, raw_mode(_STDIN), _resizing(process):
        yield lambda: _pass_on(process)


def _pass_on(process: GuestProcess) -> int:
    show = writer(_STDOUT)
    in_background(lambda: _type(process))
    while data := process.stdout.read1(_CHUNK):
        show(data)
    show(process.stderr.read())
    return process.wait()


def _type(process: GuestProcess) -> None:
    keys = Descriptor(_STDIN)
    while data := keys.read(_CHUNK):
        process.stdin.write(data)


@contextmanager
def _resizing(process: GuestProcess) -> Iterator[None]:
    """While our terminal's size changes, so does the command's."""

    def resize(_: int, __: FrameType | None) -> None:
        with suppress(OSError):
            process.resize(*_terminal_size())

    before = signal.signal(signal.SIGWINCH, resize)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


def _terminal_size() -> tuple[int, int]:
    size = os.get_terminal_size(_STDOUT)
    return size.lines, size.columns
