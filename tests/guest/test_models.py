"""Lesser processors: what a model does not announce, its processor does not have."""

import pytest
from guest_programs import manifest

from gasang import Machine

(PROGRAM,) = (program for program in manifest() if program.name == "cpuid_model")


@pytest.mark.parametrize("accel", ["interp", "bt"])
@pytest.mark.parametrize(
    "model", ["x86-64-v1", "x86-64-v2", "x86-64-v3", "max,-aes,-adx", "max,-rdrand,-rdseed", "max,-abm"]
)
def test_announcements_hold(model, accel, built):
    with Machine.boot(kernel=built(PROGRAM), memory="32M", cpu=model, accel=accel) as machine:
        outcome = machine.wait(30)
        lines = machine.debug_console.log.decode().splitlines()
    assert [line for line in lines if not line.startswith(("ok ", "skip: "))] == []
    assert outcome.exit_code == 1
