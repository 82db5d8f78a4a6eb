"""The table of comparisons, as text."""

from __future__ import annotations

from collections.abc import Sequence

from comparison import Comparison
from figures import Spread
from rows import Bar

_HEADS = ("row", "native", "gasang / native", "QEMU / native", "faster than QEMU", "bar", "")


def table(comparisons: Sequence[Comparison]) -> str:
    """A line a comparison: medians, the least and the greatest in brackets, the bar and whether it is met."""
    lines = [_HEADS, *(_cells(comparison) for comparison in comparisons)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cells(comparison: Comparison) -> tuple[str, ...]:
    return (
        comparison.name,
        f"{comparison.native.median * 1000:.1f} ms" if comparison.native else "",
        _ratio(comparison.ours_over_native),
        _ratio(comparison.qemu_over_native),
        _ratio(comparison.qemu_over_ours),
        _bar(comparison.bar),
        _verdict(comparison),
    )


def _ratio(spread: Spread | None) -> str:
    return "" if spread is None else f"{number(spread.median)} ({number(spread.low)}-{number(spread.high)})"


def number(value: float) -> str:
    """Three digits, and never an exponent."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:.3g}"


def _bar(bar: Bar) -> str:
    native = [f"<= {bar.native:g} native"] if bar.native else []
    qemu = [f">= {bar.qemu:g} QEMU"] if bar.qemu else []
    return ", ".join(native + qemu)


def _verdict(comparison: Comparison) -> str:
    if missed := comparison.missed():
        return f"MISSED ({', '.join(missed)})"
    bars = (
        (comparison.bar.native, comparison.ours_over_native),
        (comparison.bar.qemu, comparison.qemu_over_ours),
    )
    return "met" if any(bar and ratio for bar, ratio in bars) else ""
