"""Every guest program in every tier: interpreted, translated, and translated under each stress switch."""

import pytest
from guest_programs import GUESTS, manifest

from gasang import Machine
from gasang._engine import cpu_features

TIERS = {
    "interp": ("interp", None),
    "bt": ("bt", None),
    "bt-eager": ("bt", "GASANG_EAGER"),
    "bt-hot": ("bt", "GASANG_HOT"),
    "bt-cold": ("bt", "GASANG_COLD"),
    "bt-no-direct": ("bt", "GASANG_NO_DIRECT"),
    "bt-strict-flags": ("bt", "GASANG_STRICT_FLAGS"),
    "bt-tiny-cache": ("bt", "GASANG_TINY_CACHE"),
    "bt-flush-on-write": ("bt", "GASANG_FLUSH_ON_WRITE"),
}
# Programs that are hypervisors need an engine that has VMX.
PROGRAMS = [program for program in manifest() if "vmx" not in program.groups or "vmx" in cpu_features()]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    "program", PROGRAMS, ids=lambda program: f"{program.name}-{'-'.join(program.groups)}"
)
def test_program_in_every_tier(program, tier, built, monkeypatch):
    accel, switch = TIERS[tier]
    if switch:
        monkeypatch.setenv(switch, "1")
    machine = Machine.boot(
        kernel=built(program), memory=program.memory, cpus=program.cpus, cpu=program.cpu, accel=accel
    )
    with machine:
        outcome = machine.wait(program.timeout)
        lines = machine.debug_console.log.decode(errors="replace").splitlines()
    allowed = {f"skip: the processor has no {what}" for what in program.may_skip}
    wrong = [line for line in lines if not line.startswith("ok ") and line not in allowed]
    if program.exit == 1:
        assert wrong == []
        assert any(line.startswith("ok ") for line in lines)
    assert outcome.exit_code == program.exit, wrong


def test_every_program_is_in_the_manifest():
    sources = {path.stem for path in (GUESTS / "programs").iterdir()}
    assert sources == {program.name for program in manifest()}
