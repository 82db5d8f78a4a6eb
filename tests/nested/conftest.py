"""Hypervisors as Debian packages them, in initial RAM disks: nothing of them is the host's or ours."""

import sys
from pathlib import Path

import pytest

from gasang import Machine

sys.path.append(str(Path(__file__).parents[2] / "guests"))

import hypervisors

CLIENT = Path(__file__).with_name("kvm_client.c")


@pytest.fixture(scope="session")
def client(compile_for_linux):
    """The program that makes virtual machines by /dev/kvm and runs each to an exit."""
    return compile_for_linux(CLIENT)


@pytest.fixture
def boot():
    """Boots machines by the translator; all are stopped in the end."""
    machines = []

    def boot(**options):
        machines.append(Machine.boot(accel="bt", **options))
        return machines[-1]

    yield boot
    for machine in machines:
        machine.stop()


@pytest.fixture
def kvm_machine(boot, client):
    """Boots guests with KVM's modules and the client in them."""

    def boot_with_client(cpus=1):
        machine = boot(initrd=hypervisors.kvm().initrd, cpus=cpus)
        machine.run("cat > /bin/kvm_client; chmod +x /bin/kvm_client", input=client, timeout=60, check=True)
        return machine

    return boot_with_client


@pytest.fixture
def complaints():
    """What a guest's kernel complained about."""

    def of(machine):
        words = "BUG:|WARNING:|Oops|detected stall|lockup|unexpected|Call Trace|unchecked MSR"
        return machine.run(f"dmesg | grep -iE '{words}'", timeout=60).stdout.decode()

    return of
