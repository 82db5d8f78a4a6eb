"""What a machine was that is saved."""

import pytest

from gasang._engine import cpu_features
from gasang.errors import SnapshotError
from gasang.machine.saved import SavedMachine


def saved(engine):
    return SavedMachine({"machine": {"engine": engine}}, (0, 0))


def test_a_processor_keeps_what_it_had():
    """Whatever the model stands for here: the guest knows what it had."""
    had = [name for name in cpu_features() if name not in ("vmx", "avx2")]
    model = saved({"features": had}).processor("max,+rdrand")
    assert sorted(model.split(",")) == ["+rdrand", "-avx2", "-vmx", "max"]
    assert saved({"features": cpu_features()}).processor("max") == "max"


@pytest.mark.parametrize("engine", [{}, None, {"features": 3}])
def test_one_without_a_processor_is_refused(engine):
    with pytest.raises(SnapshotError, match="its processors are none"):
        saved(engine).processor("max")
