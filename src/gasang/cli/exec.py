"""`gasang exec`: a command in a machine in the background, our streams being its streams."""

from __future__ import annotations

import argparse

from gasang.backends.streams import Descriptor, may_read, writer
from gasang.cli import command
from gasang.cli.arguments import UsageError
from gasang.cli.background import agent_of

_STDIN, _STDOUT, _STDERR = 0, 1, 2
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
    command.add_options(parser)
    parser.add_argument("name", metavar="NAME", help="the machine")


def main(options: argparse.Namespace) -> int:
    """Run it; its exit code. Raises `UsageError`, `GasangError`."""
    if not options.command:
        raise UsageError("no command behind --: write one, as in gasang exec box -- uname -a")
    command.check_terminal(options)
    environment = command.environment_of(options)
    agent = agent_of(options.name)
    if options.tty:
        with command.on_terminal(
            agent, options.command, env=environment, cwd=options.workdir, user=options.user
        ) as pass_on:
            return pass_on()
    return agent.stream(
        options.command,
        stdin=Descriptor(_STDIN) if may_read(_STDIN) else None,
        stdout=writer(_STDOUT),
        stderr=writer(_STDERR),
        env=environment,
        cwd=options.workdir,
        user=options.user,
    )
