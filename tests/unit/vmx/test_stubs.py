"""The stubs say what there is."""

import pytest
from stubs import STUBS


@pytest.mark.parametrize("path", STUBS, ids=lambda path: path.name)
def test_stubs_are_those_of_the_engines_tables(path):
    assert path.read_text() == STUBS[path](), "run python tests/unit/vmx/stubs.py --write"
