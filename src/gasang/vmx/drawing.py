"""A timeline of VMX root and non-root operation, as an SVG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby, pairwise

from gasang.vmx.transitions import Transition, reason_title

_WIDTH = 1040
_LEFT = 250
_COLUMNS = 700
"""Steps of time that the picture shows; what is shorter is a shade."""
_ROW = 28
_BAR = 18
_COLORS = ("#4269d0", "#efb118", "#3ca951", "#ff725c", "#a463f2", "#6cc5b0", "#9c6b4e", "#97bbf5")
_ROOT_COLOR = "#888888"
_REASON_COLOR = "#666666"
_ROOT = "VMX root operation"


def timeline(transitions: Sequence[Transition]) -> str:
    """The transitions of one processor as a self-contained SVG: a row for root operation and one for each
    VMCS, darker the more of the time was spent in it, and below the exit reasons by their share.

    Times are the virtual clock's. With a `Processor` the hypervisor is a Python program and takes none of it.
    Raises `ValueError` if there are no transitions.
    """
    if not transitions:
        raise ValueError("there are no transitions to show")
    spans = list(_spans(transitions))
    start = transitions[0].time
    length = max(transitions[-1].time - start, 1)
    names = [_ROOT, *dict.fromkeys(f"VMCS {each.vmcs:#x}" for each in transitions)]
    reasons = Counter(reason_title(each.reason) for each in transitions if each.kind == "exit")
    parts = [_text(_LEFT, 18, f"{length / 1000:.3f} µs, {len(transitions)} transitions")]
    for row, name in enumerate(names):
        color = _ROOT_COLOR if name == _ROOT else _COLORS[(row - 1) % len(_COLORS)]
        mine = [(first - start, last - start) for owner, first, last in spans if owner == name]
        parts += _row(name, 30 + row * _ROW, mine, length, color)
    top = 30 + len(names) * _ROW + 24
    parts.append(_text(_LEFT, top - 8, f"{reasons.total()} VM exits by reason"))
    parts += _shares(reasons, top)
    height = top + len(reasons) * _ROW + 10
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="13">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _spans(transitions: Sequence[Transition]) -> Iterator[tuple[str, int, int]]:
    """Whose the time between each transition and the next was."""
    for before, after in pairwise(transitions):
        owner = f"VMCS {before.vmcs:#x}" if before.kind == "entry" else _ROOT
        yield owner, before.time, after.time


def _row(name: str, top: int, spans: list[tuple[int, int]], length: int, color: str) -> list[str]:
    total = sum(last - first for first, last in spans)
    parts = [
        _text(10, top + 14, name),
        _text(_LEFT + _COLUMNS + 8, top + 14, f"{total / length:.1%}"),
        f'<rect x="{_LEFT}" y="{top}" width="{_COLUMNS}" height="{_BAR}" fill="#f2f2f2"/>',
    ]
    column = 0
    for shade, run in groupby(_shades(spans, length)):
        width = len(list(run))
        if shade:
            parts.append(
                f'<rect x="{_LEFT + column}" y="{top}" width="{width}" height="{_BAR}" fill="{color}" '
                f'fill-opacity="{shade:.2f}"/>'
            )
        column += width
    return parts


def _shades(spans: list[tuple[int, int]], length: int) -> list[float]:
    """Which part of each column's time the spans take, in steps of a twentieth."""
    covered = [0.0] * (_COLUMNS + 1)
    for first, last in spans:
        start, end = first * _COLUMNS / length, last * _COLUMNS / length
        while start < end:
            column = int(start)
            step = min(end, column + 1)
            covered[column] += step - start
            start = step
    # What is there at all is seen.
    return [max(round(part * 20) / 20, 0.05) if part else 0.0 for part in covered[:_COLUMNS]]


def _shares(reasons: Counter[str], top: int) -> list[str]:
    parts = []
    most = max(reasons.values(), default=1)
    for row, (reason, count) in enumerate(reasons.most_common()):
        y = top + row * _ROW
        width = (_COLUMNS - 120) * count / most
        parts += [
            _text(10, y + 14, reason),
            f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{_REASON_COLOR}"/>',
            _text(_LEFT + width + 8, y + 14, f"{count} ({count / reasons.total():.1%})"),
        ]
    return parts


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}">{escape(text)}</text>'
