"""What a run asks of a benchmark, and what it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from comparison import Comparison
from figures import Figure


@dataclass(frozen=True)
class Request:
    """Who takes part, in what, how often."""

    peers: Sequence[str]
    rounds: int
    only: Sequence[str] = ()
    """Programs, or machines to boot; all when there are none."""
    processor_time: bool = False
    """Compare the processor time that the peers took, not wall time: other work on the host counts less."""

    def wants(self, name: str) -> bool:
        """Whether a program or machine takes part."""
        return not self.only or name in self.only


@dataclass(frozen=True)
class Findings:
    """What a benchmark found."""

    comparisons: list[Comparison] = field(default_factory=list)
    """Rows of the table."""
    figures: list[Figure] = field(default_factory=list)
    """What is told beside the table."""
    failures: list[str] = field(default_factory=list)
    """Why rows are incomplete."""

    def __add__(self, other: Findings) -> Findings:
        return Findings(
            self.comparisons + other.comparisons,
            self.figures + other.figures,
            self.failures + other.failures,
        )
