"""Figures: what was measured, with its spread, and the bar it is held to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class BenchmarkError(Exception):
    """A benchmark could not be run to its end; the message says why, with what the peer said last."""


@dataclass(frozen=True)
class Spread:
    """The median of samples, and the least and the greatest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """The spread of one sample a round."""
        return cls(statistics.median(samples), min(samples), max(samples))

    def inverse(self) -> Spread:
        """Of the samples' reciprocals."""
        return Spread(1 / self.median, 1 / self.high, 1 / self.low)


@dataclass(frozen=True)
class Figure:
    """One measured quantity over all rounds; less is better for every one of them."""

    name: str
    unit: str
    spread: Spread
    bar: float | None = None
    """What the median may be at most; None for figures that are only told."""

    @classmethod
    def of(cls, name: str, unit: str, samples: Sequence[float], bar: float | None = None) -> Figure:
        """The figure of one sample a round."""
        return cls(name, unit, Spread.of(samples), bar)

    @property
    def holds(self) -> bool:
        """Whether the bar, if there is one, is met."""
        return self.bar is None or self.spread.median <= self.bar

    def __str__(self) -> str:
        spread = f"({self.spread.low:.4g} to {self.spread.high:.4g})"
        return f"{self.name:38} {self.spread.median:9.4g} {self.unit:12} {spread:22}"


def ratios(ours: Iterable[float], theirs: Iterable[float]) -> list[float]:
    """Ours over theirs, round by round: what slowed the host in a round slowed both."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def geometric_means(rows: Iterable[Sequence[float]]) -> list[float]:
    """The geometric mean over the rows, round by round."""
    return [math.exp(statistics.fmean(map(math.log, column))) for column in zip(*rows, strict=True)]
