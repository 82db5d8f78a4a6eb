"""Run benchmarks and print their figures beside the bars and the baseline:

python benches/run.py                                    all of them
python benches/run.py user --rounds 1 --only sha256      one program, once
python benches/run.py boot --peers gasang                without the others
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import boot
import exit_round_trip
import idle
import translation
import user
from baseline import TOLERANCE, Baseline
from figures import BenchmarkError, Figure
from peers import GASANG, NATIVE, QEMU
from request import Request

from gasang.errors import GasangError

Measure = Callable[[Request], list[Figure]]


def _measure_exit(request: Request) -> list[Figure]:
    """It takes its own rounds, in a thread as a machine's processors do."""
    with ThreadPoolExecutor(1) as executor:
        samples = executor.submit(exit_round_trip.measure, "bt").result()
    return [Figure.of("exit: to Python and back", "µs", samples, exit_round_trip.BAR_MICROSECONDS)]


# Each with its rounds when none are asked for.
_BENCHMARKS: dict[str, tuple[Measure, int]] = {
    "boot": (boot.measure, 5),
    "user": (user.measure, 3),
    "translation": (translation.measure, 1),
    "exit": (_measure_exit, 1),
    "idle": (idle.measure, 1),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 if a benchmark failed or, with --check, a bar or the baseline is missed."""
    options = _parse(arguments)
    baseline = Baseline.empty() if options.processor_time else Baseline.load()
    figures, failures = _measure(options)
    _report(figures, baseline)
    if options.save:
        baseline.with_figures(figures).save()
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    missed = [figure for figure in figures if not figure.holds or _worse(figure, baseline)]
    return 1 if failures or (options.check and missed) else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "benchmarks", nargs="*", metavar="BENCHMARK", help=f"{', '.join(_BENCHMARKS)}; all when none is named"
    )
    parser.add_argument("--rounds", type=int, help="how often each peer's turn comes")
    parser.add_argument("--only", type=_names, default=[], help="programs or contestants")
    parser.add_argument(
        "--peers", type=_names, default=[NATIVE, GASANG, QEMU], help="by default native,gasang,qemu"
    )
    parser.add_argument(
        "--processor-time", action="store_true", help="processor time in place of wall time: for a busy host"
    )
    parser.add_argument("--check", action="store_true", help="fail if a bar or the baseline is missed")
    parser.add_argument("--save", action="store_true", help="make these figures the baseline")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.benchmarks if name not in _BENCHMARKS]
    unknown += [name for name in options.peers if name not in (NATIVE, GASANG, QEMU)]
    if unknown:
        parser.error(f"nothing is called {', '.join(unknown)}")
    if options.processor_time and (options.check or options.save):
        parser.error("bars and baseline are of wall time: leave out --processor-time")
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least one round is needed")
    return options


def _names(text: str) -> list[str]:
    return text.split(",")


def _measure(options: argparse.Namespace) -> tuple[list[Figure], list[str]]:
    """All figures, and why the benchmarks without figures failed."""
    figures, failures = [], []
    for name in options.benchmarks or _BENCHMARKS:
        measure, rounds = _BENCHMARKS[name]
        try:
            figures += measure(_request(options, rounds))
        except (BenchmarkError, GasangError) as error:
            failures.append(f"{name}: {error}")
    return figures, failures


def _request(options: argparse.Namespace, rounds: int) -> Request:
    return Request(
        peers=options.peers,
        only=options.only,
        rounds=options.rounds or rounds,
        processor_time=options.processor_time,
    )


def _report(figures: list[Figure], baseline: Baseline) -> None:
    if baseline.figures and not baseline.comparable:
        print(f"the baseline is of another processor ({baseline.processor}): not compared")
    for figure in figures:
        bar = "" if figure.bar is None else f"bar {figure.bar:g}: {'met' if figure.holds else 'MISSED'}"
        change = baseline.change(figure)
        compared = "" if change is None else f"{change:.2f}x the baseline"
        print(f"{figure} {bar:18} {compared}".rstrip())


def _worse(figure: Figure, baseline: Baseline) -> bool:
    change = baseline.change(figure)
    return change is not None and change > TOLERANCE


if __name__ == "__main__":
    sys.exit(main())
