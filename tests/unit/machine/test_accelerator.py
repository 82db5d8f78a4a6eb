"""Which accelerator a machine gets, and what is kept of the probe of KVM."""

from pathlib import Path

import pytest

from gasang.config import MachineConfig
from gasang.machine import accelerator
from gasang.machine.accelerator import Step

WORKS = [("/dev/kvm", None), ("real mode", None)]
FAILS = [("/dev/kvm", None), ("real mode", "a triple fault")]


@pytest.fixture
def probed(monkeypatch, tmp_path):
    """Sets what the next probe finds, on a host of its own; counts the probes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(accelerator, "DEVICE", Path("/dev/null"))
    probes = []

    def finds(steps):
        monkeypatch.setattr(accelerator, "probe_kvm", lambda: probes.append(1) or steps)
        return probes

    return finds


@pytest.mark.parametrize(("steps", "name"), [(WORKS, "kvm"), (FAILS, "bt")])
def test_auto_takes_kvm_if_every_step_works(steps, name, probed):
    probed(steps)
    assert accelerator.choose(MachineConfig()).name == name


@pytest.mark.parametrize(
    "options",
    [
        {"deterministic": True},
        {"trace_blocks": True},
        {"profile": True},
        {"cpu": "max,+vmx"},
        {"trace_vmx": True},
    ],
)
def test_auto_is_translation_for_what_only_the_software_processor_has(options, probed):
    probed(WORKS)
    choice = accelerator.choose(MachineConfig(**options))
    assert choice.name == "bt"
    assert "software processor" in choice.why


def test_what_is_asked_for_is_taken(probed):
    probes = probed(FAILS)
    assert accelerator.choose(MachineConfig(accel="kvm")).name == "kvm"
    assert accelerator.choose(MachineConfig(accel="interp")).name == "interp"
    assert not probes


def test_a_probe_is_kept_for_this_boot_of_the_host(probed, monkeypatch, tmp_path):
    probes = probed(WORKS)
    assert accelerator.probe() == accelerator.probe() == [Step(*step) for step in WORKS]
    assert len(probes) == 1
    another_boot = tmp_path / "boot_id"
    another_boot.write_text("another")
    monkeypatch.setattr(accelerator, "_BOOT_ID", another_boot)
    accelerator.probe()
    assert len(probes) == 2
    (tmp_path / "gasang" / "kvm-probe.json").write_text("{ broken")
    assert accelerator.probe() == [Step(*step) for step in WORKS]
    assert len(probes) == 3


def test_a_device_that_cannot_be_opened_is_tried_again(probed):
    probes = probed([("/dev/kvm", "Permission denied")])
    accelerator.probe()
    accelerator.probe()
    assert len(probes) == 2
