"""Linux's KVM in a guest: Debian's kvm_intel, and a client of /dev/kvm that runs machines of a few pages."""

from itertools import product

import pytest

TESTS = (
    "real mode",
    "protected mode",
    "MMIO in long mode",
    "interrupt in long mode",
    "CPUID",
    "triple fault",
    "long loop",
)
OPTIONS = [
    f"ept={ept} unrestricted_guest={unrestricted} vpid={vpid}"
    for ept, unrestricted, vpid in product((1, 0), (1, 0), (1, 0))
]


def run_client(machine, options="", threads=1):
    """Load KVM, run the client, unload KVM."""
    script = (
        f"modprobe kvm-intel {options} || exit 99; kvm_client {threads}; code=$?; rmmod kvm-intel; exit $code"
    )
    result = machine.run(script, timeout=120)
    assert (result.returncode, result.stderr) == (0, b""), result.stdout.decode()
    assert sorted(result.stdout.decode().splitlines()) == sorted(f"ok {name}" for name in TESTS * threads)


def test_kvm_runs_its_guests(kvm_machine, complaints):
    machine = kvm_machine()
    run_client(machine)
    assert complaints(machine) == ""


@pytest.mark.slow
def test_kvm_runs_its_guests_whatever_its_options(kvm_machine, complaints):
    machine = kvm_machine()
    for options in OPTIONS:
        run_client(machine, options)
    assert complaints(machine) == ""


@pytest.mark.slow
@pytest.mark.parametrize("options", ["", "ept=0", "unrestricted_guest=0", "vpid=0"])
def test_kvm_runs_a_guest_on_each_processor(kvm_machine, complaints, options):
    machine = kvm_machine(cpus=2)
    for _ in range(5):
        run_client(machine, options, threads=2)
    assert complaints(machine) == ""
