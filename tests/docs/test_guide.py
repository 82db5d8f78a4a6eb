"""The guide shows what there is."""

import doctest
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gasang import Machine

DOCS = Path(__file__).parents[2] / "docs"
TESTING = (DOCS / "guide/testing-a-kernel.md").read_text()


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


def test_the_kernel_of_the_guide_says_hello(tmp_path):
    for language, name in (("asm", "hello.s"), ("ld", "hello.ld")):
        (tmp_path / name).write_text(re.search(rf"```{language}\n(.*?)```", TESTING, re.DOTALL)[1])
    for command in re.findall(r"^\$ ((?:as|ld) .*)$", TESTING, re.MULTILINE):
        subprocess.run(command.split(), cwd=tmp_path, check=True)
    with Machine.boot(kernel=tmp_path / "hello.elf", memory="64M") as machine:
        assert machine.wait(timeout=30).exit_code == 7
        assert machine.console.log == b"hello from 32-bit protected mode\n"


def test_sessions_with_the_engine_are_as_shown():
    source = "\n".join(re.findall(r"```pycon\n(.*?)```", TESTING, re.DOTALL))
    session = doctest.DocTestParser().get_doctest(source, {}, "testing-a-kernel.md", None, None)
    assert doctest.DocTestRunner().run(session).failed == 0


def test_messages_that_are_explained_exist():
    table = (DOCS / "guide/troubleshooting.md").read_text()
    shown = re.findall(r"`([^`]+)`", "\n".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)))
    folders = (DOCS.parent / "src", DOCS.parent / "engine")
    files = [file for folder in folders for file in folder.rglob("*") if file.suffix in (".py", ".rs")]
    sources = "\n".join(file.read_text() for file in files)
    for message in shown:
        # Without the values in it, and the places where two strings are joined.
        pieces = [piece.strip() for piece in re.split(r"…|apt-get|\b[A-Z]{4,}\b|\b\w*\d\w*\b|: ", message)]
        assert any(len(piece) > 5 for piece in pieces), message
        assert all(piece in sources for piece in pieces), message
