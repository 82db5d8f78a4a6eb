"""The figures to compare with: benches/baseline.json, which says on what processor and when it was made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from figures import Figure

FILE = Path(__file__).with_name("baseline.json")

# Where neighbours share the host's caches, medians of three rounds differ by up to a third from run to run,
# the least of three by less than this.
TOLERANCE = 1.25


@dataclass(frozen=True)
class Baseline:
    """Earlier medians by the figure's name, and the processor that they were measured on."""

    date: str
    processor: str
    medians: dict[str, float]

    @classmethod
    def load(cls) -> Baseline:
        """The baseline in the tree; without figures if there is none yet."""
        if not FILE.exists():
            return cls.empty()
        return cls(**json.loads(FILE.read_text()))

    @classmethod
    def empty(cls) -> Baseline:
        """A baseline that there is nothing to compare with."""
        return cls("", processor_model(), {})

    def with_figures(self, figures: Sequence[Figure]) -> Baseline:
        """This baseline with today's figures in place of those of the same name, with four digits."""
        medians = {figure.name: float(f"{figure.spread.median:.4g}") for figure in figures}
        today = datetime.now(UTC).date().isoformat()
        return Baseline(today, processor_model(), (self.medians if self.comparable else {}) | medians)

    def save(self) -> None:
        """Write it to the tree."""
        content = {
            "date": self.date,
            "processor": self.processor,
            "medians": dict(sorted(self.medians.items())),
        }
        FILE.write_text(json.dumps(content, indent=1) + "\n")

    @property
    def comparable(self) -> bool:
        """Whether it was measured on a processor of this model; ratios to native differ between models."""
        return self.processor == processor_model()

    def worse(self, figures: Sequence[Figure]) -> list[tuple[Figure, float]]:
        """The figures whose least is worse than the baseline's median by more than measuring errs.

        With each, how many times as much its median is.
        """
        earlier = self.medians if self.comparable else {}
        known = [
            (figure.spread, figure, earlier[figure.name]) for figure in figures if earlier.get(figure.name)
        ]
        return [
            (figure, spread.median / was) for spread, figure, was in known if spread.low > was * TOLERANCE
        ]


def processor_model() -> str:
    """The host's processor as /proc/cpuinfo names it, with family and model."""
    lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return f"{fields['model name']}, family {fields['cpu family']}, model {fields['model']}"
