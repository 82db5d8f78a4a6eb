"""The guide to VT-x from Python shows what its examples are and say."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/guide/vmx.md").read_text()
EXAMPLES = sorted((ROOT / "examples").glob("vmx_*.py"))


def shown(kind, name):
    """The block of the guide behind a comment of this kind and name."""
    return re.search(rf"<!-- {kind} {name} -->\n```\w*\n(.*?)```", GUIDE, re.DOTALL)[1]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_says_what_is_shown(example):
    done = subprocess.run([sys.executable, example], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == shown("output", example.name)


def test_the_example_is_shown_as_it_is():
    assert shown("example", "vmx_hello.py") == (ROOT / "examples/vmx_hello.py").read_text()


def test_the_timeline_is_that_of_the_example(tmp_path):
    drawn = tmp_path / "timeline.svg"
    subprocess.run(
        [sys.executable, ROOT / "examples/vmx_time_slices.py", drawn], check=True, capture_output=True
    )
    assert drawn.read_text() == (ROOT / "docs/guide/vmx-timeline.svg").read_text()


def test_sessions_are_as_shown():
    source = "\n".join(re.findall(r"```pycon\n(.*?)```", GUIDE, re.DOTALL))
    session = doctest.DocTestParser().get_doctest(source, {}, "vmx.md", None, None)
    assert doctest.DocTestRunner().run(session).failed == 0


def test_the_docstring_of_the_package_is_true():
    from gasang import vmx  # noqa: PLC0415

    exec(re.search(r"```python\n(.*?)```", vmx.__doc__, re.DOTALL)[1], {})
