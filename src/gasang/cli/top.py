"""`gasang top`: what running machines do, again and again, as top(1) shows processes."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from gasang.cli.arguments import UsageError
from gasang.cli.report import Terminated, complain
from gasang.profile.live import Reading, Watched, running
from gasang.units import format_size

_EPILOG = """\
Machines are those that `gasang run` runs for you. While one is looked at, it is profiled, which takes some of
its time: the more, the more often it leaves translated code. Ctrl-C ends.

examples:
  gasang top
  gasang top build-guest
  gasang top --once
  gasang top -b -n 5 -d 10 >> machines.txt
"""

_TIERS = {
    "T1": ("code",),
    "T0": ("interpret", "direct"),
    "translation": ("translate",),
    "misses": ("user_miss", "supervisor_miss"),
    "dispatch": ("dispatch", "poll", "lookup", "link", "leave", "extended", "fault"),
    "devices": ("machine", "outside"),
    "idle": ("idle",),
}
"""Columns, and the phases of a profile that they add up."""

_SYMBOLS = 10
_NO_MACHINE = 1
_INTERRUPTED = 2


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gasang top`."""
    parser.description = "Show what running machines do."
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("machine", nargs="?", metavar="NAME|PID", help="only these (default: all of yours)")
    parser.add_argument(
        "-d", "--delay", metavar="SECONDS", type=float, default=2.0, help="between two looks (default: 2)"
    )
    parser.add_argument("-n", "--iterations", metavar="N", type=int, help="end after so many")
    parser.add_argument("-b", "--batch", action="store_true", help="for files and pipes: one after the other")
    parser.add_argument("--once", action="store_true", help="one look, as -b -n 1")


def main(options: argparse.Namespace) -> int:
    """Show machines until told to stop; 1 if there is none."""
    if not options.delay > 0:
        raise UsageError(f"--delay {options.delay:g}: give a number of seconds above 0")
    if options.iterations is not None and options.iterations < 1:
        raise UsageError(f"--iterations {options.iterations}: give at least 1")
    rounds = 1 if options.once else options.iterations
    view = _View(options.machine)
    batch = options.batch or options.once or not os.isatty(1)
    try:
        view.look()
        if not view.readings:
            complain("no machine is running" + (f" as {options.machine}" if options.machine else ""))
            return _NO_MACHINE
        with _screen(batch=batch):
            while rounds is None or rounds > 0:
                time.sleep(options.delay)
                _show(view.look(), batch=batch)
                rounds = None if rounds is None else rounds - 1
                if not view.readings:
                    break
    except Terminated as error:
        if error.number != _INTERRUPTED:
            raise
    finally:
        view.close()
    return 0


class _View:
    """The machines looked at, and what each was at the last look."""

    def __init__(self, wanted: str | None) -> None:
        self._wanted = wanted
        self._watched: dict[int, Watched] = {}
        self.readings: dict[int, Reading] = {}

    def look(self) -> list[str]:
        """Look at every machine; the lines that tell what they did since the look before."""
        self._find()
        before, self.readings = self.readings, {}
        for pid, watched in list(self._watched.items()):
            reading = watched.read()
            if reading is not None and self._is_wanted(reading):
                self.readings[pid] = reading
            else:
                self._watched.pop(pid).close()
        lines = [summary(len(self.readings))]
        for pid, reading in self.readings.items():
            lines += machine_lines(reading, before.get(pid))
        return lines

    def _find(self) -> None:
        """Connect to machines that are new."""
        for each in running():
            if each.pid in self._watched:
                each.close()
            else:
                self._watched[each.pid] = each

    def _is_wanted(self, reading: Reading) -> bool:
        return self._wanted is None or self._wanted in (reading.name, str(reading.pid))

    def close(self) -> None:
        """Look no longer."""
        for each in self._watched.values():
            each.close()


def summary(count: int) -> str:
    """The first line."""
    return f"gasang top: {count} machine{'' if count == 1 else 's'}"


def machine_lines(now: Reading, before: Reading | None) -> Iterator[str]:
    """What a machine did between two readings; since it is looked at, if there is but one."""
    earlier = before or now._replace(phases={}, symbols={}, counters=now.counters)
    phases = _since(now.phases, earlier.phases)
    counters = _since(now.counters, earlier.counters)
    whole = sum(phases.values())
    seconds = whole / 1e9 / now.processors
    yield ""
    yield (
        f"{now.pid} {now.name}: {now.processors} CPU{'' if now.processors == 1 else 's'}, "
        f"{format_size(now.memory)}, {seconds:.1f} s"
    )
    rates = {
        "MIPS": counters["instructions"] / 1e6,
        "exits/s": counters["exits"],
        "TLB refills/s": counters["tlb_refills"],
        "interrupts/s": counters["irq_injections"],
        "blocks/s": counters["blocks_translated"],
    }
    yield "  " + "  ".join(f"{name} {_rate(value, seconds)}" for name, value in rates.items())
    shares = {name: sum(phases[each] for each in parts) for name, parts in _TIERS.items()}
    yield "  " + "  ".join(f"{name} {_share(part, whole)}" for name, part in shares.items())
    yield from _symbol_lines(_since(now.symbols, earlier.symbols))


def _symbol_lines(samples: Counter[str]) -> Iterator[str]:
    whole = sum(samples.values())
    for name, count in sorted(samples.items(), key=lambda each: (-each[1], each[0]))[:_SYMBOLS]:
        if count:
            yield f"  {_share(count, whole):>7}  {name}"


def _since(now: Mapping[str, int], before: Mapping[str, int]) -> Counter[str]:
    """How much each has grown; where it shrank it began anew."""
    grown = ((name, value, before.get(name, 0)) for name, value in now.items())
    return Counter({name: value - earlier if value >= earlier else value for name, value, earlier in grown})


def _rate(count: float, seconds: float) -> str:
    return f"{count / seconds:,.0f}" if seconds else "-"


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}%" if whole else "-"


@contextmanager
def _screen(*, batch: bool) -> Iterator[None]:
    """A screen of our own on the terminal, which has its old one back after the block, however that ends."""
    if batch:
        yield
        return
    try:
        sys.stdout.write("\x1b[?1049h\x1b[?25l")  # the alternate screen; no cursor
        yield
    finally:
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()


def _show(lines: list[str], *, batch: bool) -> None:
    if batch:
        sys.stdout.write("\n".join(lines) + "\n\n")
    else:
        size = shutil.get_terminal_size()
        fitting = (f"{line[: size.columns]}\x1b[K\n" for line in lines[: size.lines - 1])
        sys.stdout.write("\x1b[H" + "".join(fitting) + "\x1b[J")
    sys.stdout.flush()
