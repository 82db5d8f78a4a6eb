"""Comparisons: a row's times in every peer, as ratios with their spread, beside the row's bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from figures import Figure, Spread, geometric_means, ratios
from peers import GASANG, NATIVE, QEMU
from rows import ALL_ROWS, MEANS, SETS, Bar

Times = Mapping[str, Sequence[float]]
"""Seconds by peer, one a round; without the peers that did not run the row."""


@dataclass(frozen=True)
class Comparison:
    """One row. Ratios are None where one of the two peers did not run it."""

    name: str
    kind: str
    """The set that the row is of."""
    native: Spread | None
    """Seconds."""
    ours_over_native: Spread | None
    qemu_over_native: Spread | None
    qemu_over_ours: Spread | None
    """How many times faster than QEMU gasang is."""
    bar: Bar

    @classmethod
    def of(cls, name: str, kind: str, times: Times, bar: Bar) -> Comparison:
        """The comparison of one row's times."""
        return cls(
            name,
            kind,
            Spread.of(times[NATIVE]) if NATIVE in times else None,
            _ratio(times, GASANG, NATIVE),
            _ratio(times, QEMU, NATIVE),
            _ratio(times, QEMU, GASANG),
            bar,
        )

    def missed(self) -> list[str]:
        """Against whom the bar is missed; a ratio that was not measured misses nothing."""
        found = []
        if self.bar.native and self.ours_over_native and self.ours_over_native.median > self.bar.native:
            found.append(NATIVE)
        if self.bar.qemu and self.qemu_over_ours and self.qemu_over_ours.median < self.bar.qemu:
            found.append(QEMU)
        return found

    def figures(self) -> list[Figure]:
        """The ratios that a baseline holds, ours over theirs: less is better."""
        found = []
        if self.ours_over_native:
            found.append(Figure(f"{self.name}: {GASANG} / {NATIVE}", "x", self.ours_over_native))
        if self.qemu_over_ours:
            found.append(Figure(f"{self.name}: {GASANG} / {QEMU}", "x", self.qemu_over_ours.inverse()))
        return found


def means(times: Mapping[str, Mapping[str, Times]]) -> list[Comparison]:
    """The geometric mean of each set's rows, and of all sets' rows, from the rows' times by set and name.

    Only sets that were measured whole have one. A row counts in the mean of a ratio if both peers ran it, so
    a set's means can be of different rows.
    """
    whole = [kind for kind, rows in SETS.items() if set(times.get(kind, ())) == set(rows)]
    found = [_mean(kind, list(times[kind].values())) for kind in whole]
    if len(whole) == len(SETS):
        found.append(_mean(ALL_ROWS, [row for rows in times.values() for row in rows.values()]))
    return found


def _mean(kind: str, rows: list[Times]) -> Comparison:
    return Comparison(
        f"mean: {kind}",
        kind,
        None,
        _mean_ratio(rows, GASANG, NATIVE),
        _mean_ratio(rows, QEMU, NATIVE),
        _mean_ratio(rows, QEMU, GASANG),
        MEANS.get(kind, Bar()),
    )


def _ratio(times: Times, over: str, under: str) -> Spread | None:
    if over not in times or under not in times:
        return None
    return Spread.of(ratios(times[over], times[under]))


def _mean_ratio(rows: list[Times], over: str, under: str) -> Spread | None:
    both = [ratios(times[over], times[under]) for times in rows if over in times and under in times]
    return Spread.of(geometric_means(both)) if both else None
