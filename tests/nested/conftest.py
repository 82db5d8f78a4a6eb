"""Hypervisors as Debian packages them, in initial RAM disks: nothing of them is the host's or ours."""

import shutil
import subprocess
from pathlib import Path

import pytest

from gasang import Machine
from gasang.guest import default_initrd, fetch_modules

CLIENT = Path(__file__).with_name("kvm_client.c")


@pytest.fixture(scope="session")
def client(tmp_path_factory):
    """The program that makes virtual machines by /dev/kvm and runs each to an exit."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    program = tmp_path_factory.mktemp("client") / "kvm_client"
    subprocess.run(
        ("gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-static", "-pthread", "-o", program, CLIENT),
        check=True,
    )
    return program.read_bytes()


@pytest.fixture(scope="session")
def kvm_initrd():
    """The default guest's initial RAM disk with the modules of KVM."""
    return default_initrd(fetch_modules(["kvm-intel"]))


@pytest.fixture
def complaints():
    """What a guest's kernel complained about."""

    def of(machine):
        words = "BUG:|WARNING:|Oops|stall|lockup|unexpected|Call Trace|unchecked MSR"
        return machine.run(f"dmesg | grep -iE '{words}'", timeout=60).stdout.decode()

    return of


@pytest.fixture
def kvm_machine(kvm_initrd, client):
    """Boots guests with KVM's modules and the client in them."""
    machines = []

    def boot(cpus=1):
        machine = Machine.boot(initrd=kvm_initrd, cpus=cpus, accel="bt")
        machines.append(machine)
        machine.run("cat > /bin/kvm_client; chmod +x /bin/kvm_client", input=client, timeout=60, check=True)
        return machine

    yield boot
    for machine in machines:
        machine.stop()
