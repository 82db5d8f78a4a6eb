"""What a machine shows of itself in a notebook (Jupyter): a picture, without a call that waits."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from gasang.units import format_size

if TYPE_CHECKING:
    from gasang.machine.machine import Machine

_CONSOLE_LINES = 12
_MOST_COUNTERS = 6
_BAR = 240
_COLOURS = {"running": "#2a7d4f", "ended": "#8a8a8a"}


def picture_of(machine: Machine) -> str:
    """Its parts, how it is, what executes it, its busiest counters, and the end of its console, as HTML."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{name}</th><td style='text-align:left'>{value}</td></tr>"
        for name, value in _rows(machine)
    )
    console = escape(machine.console.tail(_CONSOLE_LINES)) or "(nothing yet)"
    return (
        f"<div><table>{rows}</table>{_bars(machine.statistics())}"
        f"<pre style='background:#111;color:#ddd;padding:.6em'>{console}</pre></div>"
    )


def _rows(machine: Machine) -> list[tuple[str, str]]:
    config, outcome = machine.config, machine.outcome
    state = "running" if outcome is None else "ended"
    words = state if outcome is None else f"ended: {outcome.reason}"
    rows = [
        ("state", f"<span style='color:{_COLOURS[state]}'>\N{BLACK CIRCLE}</span> {escape(words)}"),
        ("BIOS", escape(str(config.bios))) if config.bios else ("kernel", escape(str(config.kernel))),
        ("memory", format_size(config.memory)),
        ("processors", f"{config.cpus} ({escape(config.cpu)})"),
        ("accelerator", escape(f"{machine.accelerator.name}: {machine.accelerator.why}")),
    ]
    if config.rootfs is not None:
        rows.append(("root", escape(str(config.rootfs.path))))
    rows += [("drive", escape(str(drive.path))) for drive in config.drives]
    rows += [("folder", escape(f"{each.host} at {each.guest}")) for each in config.folders]
    return rows


def _bars(statistics: dict[str, int]) -> str:
    """The counters that are largest, as bars whose lengths are their numbers of binary digits."""
    counters = sorted(statistics.items(), key=lambda item: -item[1])[:_MOST_COUNTERS]
    most = max((count.bit_length() for _, count in counters), default=0)
    if not most:
        return ""
    height = 18 * len(counters)
    bars = "".join(
        f"<rect x='0' y='{18 * row + 3}' width='{_BAR * count.bit_length() / most:.0f}' height='12'"
        f" fill='#5b8db8'/><text x='{_BAR + 8}' y='{18 * row + 13}' font-size='12'>"
        f"{escape(name)} {count:,}</text>"
        for row, (name, count) in enumerate(counters)
    )
    return f"<svg width='{_BAR + 320}' height='{height}' role='img'>{bars}</svg>"
