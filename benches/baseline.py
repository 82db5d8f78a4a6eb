"""The figures to compare with: benches/baseline.json, which says on what processor and when it was made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from figures import Figure

FILE = Path(__file__).with_name("baseline.json")

# Two runs on an idle machine of two cores differ by a tenth; a busy neighbour adds as much again.
TOLERANCE = 1.25


@dataclass(frozen=True)
class Baseline:
    """Earlier figures by name, and the processor that they were measured on."""

    date: str
    processor: str
    figures: dict[str, Figure]

    @classmethod
    def load(cls) -> Baseline:
        """The baseline in the tree; without figures if there is none yet."""
        if not FILE.exists():
            return cls.empty()
        stored = json.loads(FILE.read_text())
        figures = {name: Figure(name=name, **values) for name, values in stored["figures"].items()}
        return cls(stored["date"], stored["processor"], figures)

    @classmethod
    def empty(cls) -> Baseline:
        """A baseline that there is nothing to compare with."""
        return cls("", processor_model(), {})

    def with_figures(self, figures: Sequence[Figure]) -> Baseline:
        """This baseline with today's figures in place of those of the same name."""
        merged = self.figures if self.comparable else {}
        today = datetime.now(UTC).date().isoformat()
        return Baseline(today, processor_model(), merged | {figure.name: figure for figure in figures})

    def save(self) -> None:
        """Write it to the tree, numbers with four digits."""
        figures = {name: _values(figure) for name, figure in sorted(self.figures.items())}
        content = {"date": self.date, "processor": self.processor, "figures": figures}
        FILE.write_text(json.dumps(content, indent=1) + "\n")

    @property
    def comparable(self) -> bool:
        """Whether it was measured on a processor of this model; ratios to native differ between models."""
        return self.processor == processor_model()

    def change(self, figure: Figure) -> float | None:
        """Today's median over the baseline's; None if there is nothing to compare with."""
        earlier = self.figures.get(figure.name)
        return figure.median / earlier.median if earlier and earlier.median and self.comparable else None


def processor_model() -> str:
    """The host's processor as /proc/cpuinfo names it, with family and model."""
    lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return f"{fields['model name']}, family {fields['cpu family']}, model {fields['model']}"


def _values(figure: Figure) -> dict[str, Any]:
    values = asdict(figure)
    del values["name"]
    for name in ("median", "low", "high"):
        values[name] = float(f"{values[name]:.4g}")
    return values
