"""Run benchmarks and print a table beside the bars, and what is worse than the baseline:

python benches/run.py                                    all of them
python benches/run.py user --rounds 1 --only sha256      one program, once
python benches/run.py boot --peers gasang                without the others
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boot
import disk
import exit_round_trip
import folders
import idle
import kvm
import nested
import network
import parallel
import record
import snapshots
import translation
import user
import vmx
from baseline import Baseline
from figures import BenchmarkError, Figure
from peers import GASANG, NATIVE, QEMU
from request import Findings, Request
from rows import BOOT, SETS
from table import table

from gasang.errors import GasangError

Measure = Callable[[Request], Findings]


def _measure_exit(request: Request) -> Findings:
    """It takes its own rounds, in a thread as a machine's processors do."""
    with ThreadPoolExecutor(1) as executor:
        samples = executor.submit(exit_round_trip.measure, "bt").result()
    name = "exit: to Python and back"
    return Findings(figures=[Figure.of(name, "µs", samples, exit_round_trip.BAR_MICROSECONDS)])


# Each with its rounds when none are asked for.
_BENCHMARKS: dict[str, tuple[Measure, int]] = {
    "boot": (boot.measure, 3),
    "user": (user.measure, 3),
    "parallel": (parallel.measure, 3),
    "translation": (translation.measure, 1),
    "exit": (_measure_exit, 1),
    "disk": (disk.measure, 3),
    "network": (network.measure, 3),
    "folders": (folders.measure, 3),
    "snapshots": (snapshots.measure, 5),
    "idle": (idle.measure, 1),
    "kvm": (kvm.measure, 3),
    "vmx": (vmx.measure, 3),
    "nested": (nested.measure, 3),
}


_CONTESTANTS = {
    GASANG,
    *BOOT,
    parallel.PROGRAM,
    nested.NAME,
    *(name for rows in SETS.values() for name in rows),
}
"""What --only can name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 if a benchmark failed, or what --check or --bars asks for does not hold."""
    options = _parse(arguments)
    baseline = Baseline.empty() if options.processor_time else Baseline.load()
    findings = _measure(options)
    figures = _compared(findings)
    _report(findings, baseline, figures)
    record.save(findings, options.json)
    if options.picture:
        _draw(findings)
    if options.save:
        baseline.with_figures(figures).save()
    missed = any(row.missed() for row in findings.comparisons) or not all(
        figure.holds for figure in findings.figures
    )
    worse = baseline.worse(figures)
    return 1 if findings.failures or (options.check and worse) or (options.bars and missed) else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("benchmarks", nargs="*", metavar="BENCHMARK", help=f"{', '.join(_BENCHMARKS)}; all by default")
    add("--rounds", type=int, help="how often each peer's turn comes")
    add("--only", type=_names, default=[], help="programs, or machines to boot")
    add("--peers", type=_names, default=[NATIVE, QEMU, GASANG], help="by default native,qemu,gasang")
    add("--processor-time", action="store_true", help="processor time in place of wall time: for a busy host")
    add("--check", action="store_true", help="fail if a ratio is worse than the baseline's")
    add("--bars", action="store_true", help="fail if a bar is missed")
    add("--save", action="store_true", help="make these figures the baseline")
    add("--json", type=Path, default=record.FILE, metavar="FILE", help="where the findings go")
    add("--picture", action="store_true", help="draw docs/benchmarks.png and .svg")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.benchmarks if name not in _BENCHMARKS]
    unknown += [name for name in options.peers if name not in (NATIVE, GASANG, QEMU)]
    unknown += [name for name in options.only if name not in _CONTESTANTS]
    if unknown:
        parser.error(f"nothing is called {', '.join(unknown)}")
    if options.processor_time and (options.check or options.bars or options.save):
        parser.error("bars and baseline are of wall time: leave out --processor-time")
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least one round is needed")
    return options


def _names(text: str) -> list[str]:
    return text.split(",")


def _measure(options: argparse.Namespace) -> Findings:
    """What all benchmarks found, and why those that found nothing failed."""
    findings = Findings()
    for name in options.benchmarks or _BENCHMARKS:
        measure, rounds = _BENCHMARKS[name]
        try:
            findings += measure(_request(options, rounds))
        except (BenchmarkError, GasangError) as error:
            findings += Findings(failures=[f"{name}: {error}"])
    return findings


def _request(options: argparse.Namespace, rounds: int) -> Request:
    return Request(
        peers=options.peers,
        only=options.only,
        rounds=options.rounds or rounds,
        processor_time=options.processor_time,
    )


def _compared(findings: Findings) -> list[Figure]:
    """What the baseline is about: every ratio of ours to another, and what else has a bar."""
    ratios = [figure for comparison in findings.comparisons for figure in comparison.figures()]
    return ratios + [figure for figure in findings.figures if figure.bar is not None]


def _report(findings: Findings, baseline: Baseline, figures: Sequence[Figure]) -> None:
    if findings.comparisons:
        print(f"\n{table(findings.comparisons)}\n")
    for figure in findings.figures:
        bar = "" if figure.bar is None else f"bar {figure.bar:.3g}: {'met' if figure.holds else 'MISSED'}"
        print(f"{figure} {bar}".rstrip())
    if baseline.medians and not baseline.comparable:
        print(f"the baseline is of another processor ({baseline.processor}): not compared")
    for figure, change in baseline.worse(figures):
        print(f"worse than the baseline of {baseline.date}: {figure.name}: {change:.2f} times as much")
    for failure in findings.failures:
        print(f"failed: {failure}", file=sys.stderr)


def _draw(findings: Findings) -> None:
    import picture  # noqa: PLC0415 - it needs a library that measuring does not

    picture.draw(findings)


if __name__ == "__main__":
    sys.exit(main())
