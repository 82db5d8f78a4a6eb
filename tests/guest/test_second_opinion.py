"""The same programs in QEMU's translator: what they expect is not our own invention."""

import re
import shutil
import subprocess
import tomllib

import pytest
from guest_programs import GUESTS, manifest

QEMU = shutil.which("qemu-system-x86_64")
KNOWN = tomllib.loads((GUESTS / "second_opinion.toml").read_text())
SECONDS = 20
# QEMU's translator has no VMX; those run in Bochs.
PROGRAMS = [program for program in manifest() if "vmx" not in program.groups]


@pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not installed")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_qemu_agrees_but_for_known_differences(program, built):
    known = KNOWN.get(program.name, {})
    lines = _run(built(program), program.cpus, seconds=2 if known.get("stops") else SECONDS)
    failed = {match[1] for line in lines if (match := re.match(r"FAIL (.*): got 0x", line))}
    assert failed <= set(known.get("differs", ()))
    if program.exit == 1:
        assert any(line.startswith("ok ") for line in lines)
    if not known.get("stops"):
        assert not any(line.startswith("GAVE UP") for line in lines)


def _run(kernel, cpus, seconds):
    """The lines that a program prints."""
    command = (
        QEMU, "-accel", "tcg", "-cpu", "max", "-smp", str(cpus), "-m", "64", "-display", "none", "-no-reboot",
        "-debugcon", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-kernel", kernel,
    )  # fmt: skip
    try:
        output = subprocess.run(command, capture_output=True, check=False, timeout=seconds).stdout
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout or b""
    return output.decode(errors="replace").splitlines()


def test_known_differences_are_of_programs():
    assert set(KNOWN) <= {program.name for program in PROGRAMS}
