"""What Linux makes of KVM's offers, and what it does without them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gasang import Machine

ASK = """
    cat /sys/devices/system/clocksource/clocksource0/available_clocksource
    cat /sys/devices/system/clocksource/clocksource0/current_clocksource
    dmesg
"""


def asked(cpu, cpus=1, **options):
    """Clock sources that there are, the one in use, and the kernel's messages."""
    with Machine.boot(cpu=cpu, cpus=cpus, **options) as machine:
        done = machine.run(ASK, timeout=120, check=True)
    available, current, messages = done.stdout.decode().split("\n", 2)
    return available.split(), current, messages


def test_linux_finds_kvm_and_its_clock():
    available, current, messages = asked("max")
    assert "Hypervisor detected: KVM" in messages
    assert "kvm-clock" in available
    assert current == "tsc"


def test_without_a_constant_counter_kvms_clock_is_the_clock():
    assert asked("max,-constant_tsc")[1] == "kvm-clock"


@pytest.mark.parametrize("hidden", ["-kvm", "-hypervisor"])
def test_linux_finds_no_kvm_where_it_is_hidden(hidden):
    available, current, messages = asked(f"max,{hidden}")
    assert "kvm" not in messages.lower().replace(hidden, "")
    assert "kvm-clock" not in available
    assert current == "tsc"


def test_single_offers_can_be_hidden():
    messages = asked("max,-kvmclock,-kvm-pv-unhalt", cpus=2)[2]
    assert "Hypervisor detected: KVM" in messages
    assert "kvm-clock" not in messages
    assert "PV spinlocks disabled" in messages


def test_two_processors_use_what_is_for_several():
    with Machine.boot(cpus=2) as machine:
        messages = machine.run("dmesg", timeout=120, check=True).stdout.decode()
        script = "for i in $(seq 40); do (for j in $(seq 5); do /bin/true; done) & done; wait; echo done"
        assert machine.run(script, timeout=120, check=True).stdout == b"done\n"
    assert "KVM setup pv remote TLB flush" in messages
    assert "PV spinlocks enabled" in messages
    assert "setup PV IPIs" in messages


def test_a_deterministic_machine_has_no_time_stolen():
    with Machine.boot(deterministic=True) as machine:
        line = machine.run("head -n 1 /proc/stat", check=True).stdout.split()
    assert line[0] == b"cpu"
    assert line[8] == b"0"


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this host does not tell")
def test_time_stolen_is_told():
    """While others crowd the host's processors, a guest that computes sees some of its time stolen."""
    spin = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(spin) for _ in range(2 * len(os.sched_getaffinity(0)))]
    try:
        with Machine.boot() as machine:
            wait = "until [ $(head -n 1 /proc/stat | tr -s ' ' | cut -d ' ' -f 9) -gt 0 ]; do :; done"
            machine.run(wait, timeout=120, check=True)
    finally:
        for other in others:
            other.kill()
            other.wait()
