"""The `gasang` command."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from gasang.cli.arguments import Parser, UsageError
from gasang.cli.report import OUR_ERROR, Terminated, complain, terminations_raise
from gasang.errors import GasangError

_DESCRIPTION = """\
Run unmodified x86-64 guests in an ordinary process: no VT-x, no kernel module, no root.
"""

_EPILOG = """\
examples:
  gasang run                                  a Debian guest: its shell, on this terminal
  gasang run -- uname -a                      one command in it: its output and exit code are ours
  gasang run --kernel bzImage --initrd i.img --append console=ttyS0
  gasang image create disk.qcow2 10G          a disk for it
  gasang run -d --name box                    a guest in the background, until gasang stop box
  gasang exec -t box -- sh                    a shell in it
  gasang top                                  what running machines do
  gasang doctor                               what this host offers

`gasang VERB --help` tells more. Exit codes: the guest command's own; 124 timeout; 125 an error of gasang
itself; 128 + n signal n; 255 the guest's kernel panicked.
"""

_VERBS = {
    "run": "boot a guest: its console here, or one command in it",
    "image": "make images of disks and systems",
    "exec": "run a command in a machine in the background",
    "cp": "copy files into such a machine, or out of it",
    "console": "its console, on this terminal",
    "ps": "which machines are in the background",
    "stop": "stop one",
    "snapshot": "write one to a file",
    "restore": "go on where the machine in such a file was",
    "fork": "make clones of one",
    "top": "what running machines do",
    "doctor": "what this host offers, and what gasang will use",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with terminations_raise():
            code = _dispatch(words)
            sys.stdout.flush()  # here, where a reader that is gone is known to be no error of ours
            return code
    except (UsageError, GasangError) as error:
        complain(str(error))
        return OUR_ERROR
    except Terminated as error:
        return 128 + error.number
    except BrokenPipeError:
        # What is buffered has no reader: the interpreter must not try to write it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + 13
    except SystemExit:
        raise
    except BaseException as error:  # a panic of the engine is none of Exception
        return _internal_error(error)


class _Version(argparse.Action):
    """Looks the version up only when it is asked for, because that takes as long as all of the rest."""

    def __call__(self, *_: object) -> NoReturn:
        from importlib import metadata  # noqa: PLC0415

        print(f"gasang {metadata.version('gasang')}")
        sys.exit(0)


def _dispatch(words: list[str]) -> int:
    parser = Parser(prog="gasang", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    words, command = _split_command(words)
    named = next((word for word in words if not word.startswith("-")), None)
    if named in _VERBS:  # a verb is loaded when it is meant, and then no other is of interest
        module = importlib.import_module(f"gasang.cli.{named}")
        verb = verbs.add_parser(named, help=_VERBS[named])
        module.add_options(verb)
        verb.set_defaults(main=module.main, parser=verb)
    else:
        for name, summary in _VERBS.items():
            verbs.add_parser(name, help=summary)
    options, unknown = parser.parse_known_args(words)
    _check_words(options, unknown, command)
    options.command = command
    code: int = options.main(options)
    return code


def _check_words(options: argparse.Namespace, unknown: list[str], command: list[str] | None) -> None:
    """Refuse words that the verb has no use for. Raises `UsageError`."""
    hint = ""
    if options.verb == "run":
        hint = f": a command for the guest is written behind --, as in gasang run -- {' '.join(unknown)}"
    elif command is not None and options.verb not in ("exec", "restore"):
        options.parser.error("no command for a guest can be given here")
    if unknown and unknown[0].startswith("-"):
        options.parser.error(f"unknown option {unknown[0]}")
    if unknown:
        options.parser.error(f"unexpected {unknown[0]!r}{hint}")


def _split_command(words: list[str]) -> tuple[list[str], list[str] | None]:
    """What precedes the first `--`, and the guest's command behind it; None without `--`."""
    if "--" not in words:
        return words, None
    at = words.index("--")
    return words[:at], words[at + 1 :]


def _internal_error(error: BaseException) -> int:
    if os.environ.get("GASANG_TRACEBACK"):
        import traceback  # noqa: PLC0415 - slow to load, and rarely needed

        traceback.print_exception(error)
    text = " ".join(str(error).split())
    complain(f"internal error: {type(error).__name__}: {text} (GASANG_TRACEBACK=1 shows where)")
    return OUR_ERROR
