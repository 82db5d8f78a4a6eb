"""`gasang exec`: a command in a machine in the background, our streams being its streams."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from gasang.backends.console import in_background
from gasang.backends.streams import Descriptor, may_read, writer
from gasang.backends.terminal import raw_mode
from gasang.cli.arguments import UsageError
from gasang.cli.background import agent_of
from gasang.guest.guest_process import GuestProcess
from gasang.guest.vsock_agent import VsockAgent

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_CHUNK = 4096
_EPILOG = """\
The command's exit code is ours; 126 and 127 if it cannot be run or was not found, 128 + n after signal n.
When gasang exec ends, the command does.

examples:
  gasang exec box -- uname -a
  gasang exec -t box -- sh
  tar c src | gasang exec -w /tmp box -- tar x
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gasang exec`."""
    parser.description = "Run a command in a machine in the background."
    parser.usage = "gasang exec [OPTION...] NAME -- CMD [ARG...]"
    parser.epilog = _EPILOG
    parser.add_argument("-t", "--tty", action="store_true", help="give it a terminal: this one")
    parser.add_argument(
        "-e", "--env", metavar="K=V", action="append", default=[], help="its environment; may be repeated"
    )
    parser.add_argument("-w", "--workdir", metavar="DIR", help="its directory (default: root's)")
    parser.add_argument("-u", "--user", metavar="USER", help="who it is (default: root)")
    parser.add_argument("name", metavar="NAME", help="the machine")


def main(options: argparse.Namespace) -> int:
    """Run it; its exit code. Raises `UsageError`, `GasangError`."""
    if not options.command:
        raise UsageError("no command behind --: write one, as in gasang exec box -- uname -a")
    if options.tty and not (os.isatty(_STDIN) and os.isatty(_STDOUT)):
        raise UsageError("-t needs a terminal: stdin or stdout is none")
    environment = dict(map(_pair, options.env))
    agent = agent_of(options.name)
    if options.tty:
        return _on_terminal(agent, options, environment)
    return agent.stream(
        options.command,
        stdin=Descriptor(_STDIN) if may_read(_STDIN) else None,
        stdout=writer(_STDOUT),
        stderr=writer(_STDERR),
        env=environment,
        cwd=options.workdir,
        user=options.user,
    )


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError(f"-e {text}: write NAME=VALUE")
    return name, value


def _on_terminal(agent: VsockAgent, options: argparse.Namespace, environment: dict[str, str]) -> int:
    terminal = os.environ.get("TERM")
    if terminal:
        environment.setdefault("TERM", terminal)
    process = agent.popen(
        options.command, env=environment, cwd=options.workdir, user=options.user, terminal=_terminal_size()
    )
    show = writer(_STDOUT)
    with process, raw_mode(_STDIN), _resizing(process):
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
