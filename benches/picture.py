"""The picture of a comparison: docs/benchmarks.png and .svg.

python benches/picture.py [FILE.json]    of a run that was recorded; by default the latest

It needs matplotlib: `pip install --group bench`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import record
from comparison import Comparison
from figures import Spread
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from request import Findings
from rows import ALL_ROWS, SETS
from table import number

_DOCS = Path(__file__).parent.parent / "docs"
_BAR = 0.38

# Of the palette of Okabe and Ito, which the colour-blind tell apart; they differ in lightness too.
_OURS, _QEMU, _INK, _GRID = "#0072B2", "#E69F00", "#333333", "#DDDDDD"


def draw(findings: Findings, directory: Path = _DOCS) -> list[Path]:
    """Draw the rows' slowdowns against native and the boot times; the files written."""
    settings: Any = {
        "font.size": 9, "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _INK,
        "xtick.color": _INK, "ytick.color": _INK, "svg.hashsalt": "gasang", "svg.fonttype": "none",
    }  # fmt: skip
    rows = _slowdowns(findings)
    boots = [figure for figure in findings.figures if figure.name.startswith("boot: ")]
    with matplotlib.rc_context(settings):
        heights = [len(rows), max(1, len(boots))]
        page = Figure(figsize=(8, 1.6 + 0.27 * sum(heights)), layout="constrained")
        upper, lower = page.subplots(2, 1, height_ratios=heights)
        _draw_slowdowns(upper, rows)
        _draw_boots(lower, [(boot.name.removeprefix("boot: "), boot.spread) for boot in boots])
        files = [directory / f"benchmarks.{suffix}" for suffix in ("png", "svg")]
        for file in files:
            undated = {"Date": None} if file.suffix == ".svg" else {}
            page.savefig(file, dpi=150, facecolor="white", metadata=undated)
    return files


def _slowdowns(findings: Findings) -> list[Comparison]:
    """The rows by set, each set with its mean last, and the mean of all."""
    rows = [row for row in findings.comparisons if row.ours_over_native]
    return [row for kind in (*SETS, ALL_ROWS) for row in rows if row.kind == kind] or rows


def _draw_slowdowns(axes: Axes, rows: Sequence[Comparison]) -> None:
    ours = [row.ours_over_native for row in rows]
    qemus = [row.qemu_over_native for row in rows]
    _draw_bars(axes, ours, _OURS, -_BAR / 2, "gasang")
    _draw_bars(axes, qemus, _QEMU, _BAR / 2, "QEMU TCG")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.set_xlim(left=0.8)
    axes.axvline(1, color=_INK, linewidth=0.8)
    axes.set_xlabel("time over native, logarithmic: less is better; whiskers: least and greatest")
    names = [row.name.replace("mean: ", "geometric mean: ") for row in rows]
    axes.set_yticks(range(len(rows)), names)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row.name.startswith("mean") else "normal")
    for place, (above, below) in enumerate(pairwise(rows)):
        if above.kind != below.kind:
            axes.axhline(place + 0.5, color=_GRID, linewidth=0.8)
    axes.legend(loc="upper right", frameon=True)
    _tidy(axes, len(rows))


def _draw_boots(axes: Axes, boots: Sequence[tuple[str, Spread]]) -> None:
    for place, (name, spread) in enumerate(boots):
        colour = _OURS if name == "gasang" else _QEMU
        axes.barh(place, spread.median, 2 * _BAR, color=colour)
        axes.text(spread.median, place, f" {spread.median:.2f} s", va="center")
    axes.set_yticks(range(len(boots)), [name if name == "gasang" else f"QEMU {name}" for name, _ in boots])
    axes.set_xlabel("seconds from the start of the process to a shell's prompt")
    axes.margins(x=0.12)
    _tidy(axes, len(boots))


def _draw_bars(axes: Axes, spreads: Sequence[Spread | None], colour: str, offset: float, label: str) -> None:
    for place, spread in enumerate(spreads):
        if spread is None:
            axes.text(1, place + offset, " cannot", va="center", fontsize=7)
            continue
        beyond = [[spread.median - spread.low], [spread.high - spread.median]]
        axes.barh(
            place + offset, spread.median, _BAR, color=colour, label=label, xerr=beyond,
            error_kw={"elinewidth": 0.7, "ecolor": _INK},
        )  # fmt: skip
        axes.text(spread.high * 1.05, place + offset, number(spread.median), va="center", fontsize=7)
        label = "_nolegend_"


def _tidy(axes: Axes, count: int) -> None:
    axes.set_ylim(count - 0.4, -0.6)
    axes.grid(axis="x", color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def main(arguments: Sequence[str]) -> int:
    """Draw what was recorded."""
    file = Path(arguments[0]) if arguments else record.FILE
    for written in draw(record.load(file)):
        print(written)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
