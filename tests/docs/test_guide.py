"""The guide shows what there is."""

import importlib.util
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def show_blocks():
    specification = importlib.util.spec_from_file_location("show_blocks", DOCS / "show_blocks.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules["show_blocks"] = module  # where dataclasses look for it
    specification.loader.exec_module(module)
    yield module
    del sys.modules["show_blocks"]


def test_blocks_are_those_of_the_translator(show_blocks):
    text = show_blocks.GUIDE.read_text()
    assert show_blocks.rendered_guide(text) == text, (
        "the translator makes other blocks than the guide shows: run docs/show_blocks.py --write, "
        "and read what the guide says of them"
    )


def test_every_snippet_is_shown(show_blocks):
    text = show_blocks.GUIDE.read_text()
    assert all(f"<!-- block {name} -->" in text for name in show_blocks.SNIPPETS)
