"""SPECIFICATION.md names tests that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = re.findall(r"`((?:tests|engine)/[\w/.]+)::(\w+)`", (ROOT / "SPECIFICATION.md").read_text())


def test_promises_name_tests():
    assert len(NAMED) > 80


@pytest.mark.parametrize(("place", "name"), NAMED, ids=[f"{place}::{name}" for place, name in NAMED])
def test_named_test_exists(place, name):
    if place.endswith(".py"):
        assert re.search(rf"^(?:async )?def {name}\(", (ROOT / place).read_text(), re.MULTILINE)
        return
    sources = (ROOT / place).rglob("*.rs")
    assert any(
        re.search(rf"#\[test\]\n(?:\s*#.*\n)*\s*fn {name}\(\)", source.read_text()) for source in sources
    )
