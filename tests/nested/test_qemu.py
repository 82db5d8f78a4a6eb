"""Debian's QEMU with KVM in a guest: the guest's own kernel and initial RAM disk, once more inside it."""

import hashlib
import re

import hypervisors
import pytest

pytestmark = pytest.mark.slow

SUM = hashlib.sha256("".join(f"{number}\n" for number in range(1, 100001)).encode()).hexdigest()


@pytest.fixture(scope="module")
def initrd():
    return hypervisors.qemu().initrd


@pytest.fixture
def run_guest(boot, initrd, complaints):
    """Runs the guest's guest until it powers off; what it said on its console."""

    def run_guest(options="", cpus=1, end="poweroff -f", **choices):
        machine = boot(initrd=initrd, cpus=cpus, memory="2G")
        machine.run(f"modprobe kvm-intel {options}", timeout=60, check=True)
        append = f"{hypervisors.APPEND} rdinit=/init.guest 'END={end}'".replace("'", '"')
        command = hypervisors.qemu_command(append, cpus, **choices)
        result = machine.run(f"timeout -s KILL 120 {command} </dev/null", timeout=150)
        said = result.stdout.decode(errors="replace").replace("\r", "")
        assert result.returncode == 0, said + result.stderr.decode()
        assert complaints(machine) == ""
        return said

    return run_guest


def check(said, cpus=1):
    """That it came to its userspace, found KVM below it, and computed."""
    assert re.search(rf"^up: Linux 6\.[\d.-]+-cloud-amd64, {cpus} processors$", said, re.MULTILINE), said
    assert "Hypervisor detected: KVM\n" in said
    assert f"{SUM}  -\n" in said
    for word in ("BUG:", "WARNING:", "Oops", "Call Trace"):
        assert word not in said


@pytest.mark.parametrize("options", ["", "ept=0", "unrestricted_guest=0", "vpid=0"])
def test_linux_in_qemu_reaches_userspace(run_guest, options):
    check(run_guest(options))


@pytest.mark.parametrize("machine", ["pc", "q35"])
@pytest.mark.parametrize("options", ["", "unrestricted_guest=0"])
def test_linux_in_qemu_boots_by_seabios(run_guest, options, machine):
    """The BIOS runs in real mode, in and out of protected mode."""
    check(run_guest(options, machine=machine))


@pytest.mark.parametrize("options", ["", "ept=0"])
def test_linux_in_qemu_on_two_processors(run_guest, options):
    check(run_guest(options, cpus=2), cpus=2)


# Without EPT, KVM 6.1 leaves SMEP and SMAP on for a guest that switches paging off, as Linux does to reset by
# the BIOS. The pages that KVM gives it are the user's then: it hangs, on any processor that has the two.
@pytest.mark.parametrize(("options", "cpu"), [("", "host"), ("ept=0", "host,-smep,-smap")])
def test_linux_in_qemu_resets(run_guest, options, cpu):
    check(run_guest(options, cpu=cpu, end="reboot -f"))
