"""A short comparison of T0 with T1; `make lockstep` makes the long one."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from lockstep import compare, default_config

sys.path.append(str(Path(__file__).parents[2] / "guests"))

from guest_programs import Builder, manifest


def test_tiers_agree_over_the_start_of_a_boot():
    assert compare(default_config(), 3_000_000) is None


def test_a_difference_is_found():
    config = default_config()
    found = compare(config, 400_000, tamper=lambda follower: follower.vcpu.set_registers(r12=0xDEAD))
    assert found is not None
    assert any(line.startswith("r12:") for line in found.lines)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
@pytest.mark.parametrize("name", ["vmx_interrupts", "vmx_preempted", "vmx_ept_access", "vmx_apic_interrupts"])
def test_tiers_agree_over_a_hypervisor(name, tmp_path):
    [program] = [each for each in manifest() if each.name == name]
    kernel = Builder(tmp_path).build(program)
    config = replace(default_config(), kernel=kernel, initrd=None, append="", memory=32 << 20)
    assert compare(config, 100_000_000, stretch=5000) is None
