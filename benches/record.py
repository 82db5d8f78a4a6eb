"""A run's findings as JSON: to keep, to draw a picture of, to compare with by hand."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from baseline import processor_model
from comparison import Comparison
from figures import Figure, Spread
from request import Findings
from rows import Bar

FILE = Path(__file__).with_name("out") / "latest.json"
_SPREADS = ("native", "ours_over_native", "qemu_over_native", "qemu_over_ours")


def save(findings: Findings, file: Path) -> None:
    """Write the findings, with the date and the processor's model."""
    content = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor_model(),
        **asdict(findings),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1) + "\n")


def load(file: Path) -> Findings:
    """What `save` wrote."""
    content = json.loads(file.read_text())
    return Findings(
        [_comparison(values) for values in content["comparisons"]],
        [_figure(values) for values in content["figures"]],
        content["failures"],
    )


def _comparison(values: dict[str, Any]) -> Comparison:
    spreads = {name: Spread(**values[name]) if values[name] else None for name in _SPREADS}
    return Comparison(**values | spreads | {"bar": Bar(**values["bar"])})


def _figure(values: dict[str, Any]) -> Figure:
    return Figure(**values | {"spread": Spread(**values["spread"])})
