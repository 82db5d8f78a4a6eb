"""What a run asks of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """Who takes part, in what, how often."""

    peers: Sequence[str]
    rounds: int
    only: Sequence[str] = ()
    """Programs or contestants; all when there are none."""
    processor_time: bool = False
    """Compare the processor time that the peers took, not wall time: other work on the host counts less."""

    def wants(self, name: str) -> bool:
        """Whether a program or contestant takes part."""
        return not self.only or name in self.only
