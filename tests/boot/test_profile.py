"""What profilers are told of a guest, at the default guest."""

import os
from pathlib import Path

import pytest

from gasang import Machine


@pytest.fixture
def perf_map():
    """The map of this process, removed in the end."""
    path = Path(f"/tmp/perf-{os.getpid()}.map")
    yield path
    path.unlink(missing_ok=True)


def test_the_perf_map_names_the_kernels_functions(perf_map):
    with Machine.boot(accel="bt", perf_map=True) as machine:
        machine.run(["true"], timeout=60, check=True)
    lines = [line.split(" ", 2) for line in perf_map.read_text().splitlines()]
    assert len(lines) == machine.statistics()["blocks_translated"]
    assert all(int(address, 16) > 0 and int(size, 16) > 0 for address, size, _ in lines)
    names = {name.partition("+")[0].partition(" ")[0] for _, _, name in lines}
    assert {"start_kernel", "do_syscall_64", "schedule", "exc_page_fault"} <= names
    assert any(name.endswith("[T1 CPL3]") for _, _, name in lines)
