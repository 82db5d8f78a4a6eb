"""Programs that are hypervisors in Bochs: what they expect is not our own invention."""

import re
import tomllib

import bochs
import pytest
from guest_programs import GUESTS, manifest

KNOWN = tomllib.loads((GUESTS / "second_opinion_bochs.toml").read_text())
PROGRAMS = [program for program in manifest() if "vmx" in program.groups]
SECONDS, SECONDS_TO_A_STOP = 60, 5


@pytest.mark.skipif(bochs.missing() is not None, reason=f"{bochs.missing()} is not installed")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_bochs_agrees_but_for_known_differences(program, built):
    known = KNOWN.get(program.name, {})
    stops = known.get("stops", False)
    lines, ended = bochs.run(
        built(program), cpus=program.cpus, seconds=SECONDS_TO_A_STOP if stops else SECONDS
    )
    failed = {match[1] for line in lines if (match := re.match(r"FAIL (.*): got 0x", line))}
    assert failed <= set(known.get("differs", ()))
    assert any(line.startswith("ok ") for line in lines)
    assert not any(line.startswith("GAVE UP") for line in lines)
    assert ended or stops


def test_known_differences_are_of_programs():
    assert set(KNOWN) <= {program.name for program in PROGRAMS}
