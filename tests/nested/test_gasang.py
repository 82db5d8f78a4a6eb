"""gasang in gasang: our accelerator on Debian's KVM on our VT-x, where KVM is all that it is on hardware."""

import json
import re
from pathlib import Path

import hypervisors
import pytest

from gasang import Machine

TESTS = Path(__file__).parents[1]
PYTHON = "env PYTHONPATH=/opt:/usr/lib/python3/dist-packages python3"
BOOT = (
    f"{PYTHON} -m gasang run -q --accel kvm --kernel /guest/vmlinuz --initrd /guest/initrd "
    "--append 'console=ttyS0 quiet rdinit=/init.guest' -m 512M"
)


@pytest.fixture(scope="module")
def host():
    """A guest with KVM and with this package."""
    initrd = hypervisors.gasang_itself(TESTS).initrd
    with Machine.boot(initrd=initrd, accel="bt", memory="3G", cpus=2) as machine:
        machine.run("ldconfig; modprobe kvm-intel", timeout=120, check=True)
        yield machine


def test_every_step_of_the_probe_passes_and_kvm_is_taken(host):
    said = host.run(f"{PYTHON} -m gasang doctor --json", timeout=120, check=True).stdout
    findings = json.loads(said)
    steps = [each for each in findings if each["name"].startswith("KVM: ")]
    assert len(steps) >= 7
    assert [each for each in steps if not each["ok"]] == []
    assert findings[0]["says"].startswith("kvm: ")


@pytest.mark.parametrize("irqchip", ["own", "kernel"])
@pytest.mark.parametrize("cpus", [1, 2])
def test_linux_boots_to_its_shell(host, cpus, irqchip):
    commands = b"echo in $((40 + 2)); seq 100000 | sha256sum\npoweroff -f\n"
    result = host.run(
        f"timeout -s KILL 200 {BOOT} -c {cpus} --irqchip {irqchip}", input=commands, timeout=220
    )
    said = result.stdout.decode(errors="replace").replace("\r", "")
    assert result.returncode == 0, said + result.stderr.decode()
    assert re.search(rf"^up: Linux 6\.[\d.-]+-cloud-amd64, {cpus} processors$", said, re.MULTILINE), said
    assert "in 42\n" in said
    assert not re.search("BUG:|WARNING:|Oops|Call Trace", said)


SWITCH = """
from gasang import Machine

with Machine.boot(
    kernel="/guest/vmlinuz", initrd="/guest/initrd", append="console=ttyS0 quiet rdinit=/init.guest",
    accel="kvm", cpus=2, irqchip="IRQCHIP",
) as vm:
    vm.console.expect("up: ", timeout=None)
    for number, accel in enumerate(("bt", "kvm") * 5):
        vm.console.write(f"seq 30000 | sha256sum; echo done $(({number} + 100))\\n")
        vm.switch_accelerator(accel)
        vm.console.expect(f"done {number + 100}\\r\\n", timeout=None)
    log = vm.console.log.decode()
sums = {line.split()[0] for line in log.splitlines() if line.endswith("  -") and "$" not in line}
print(len(sums) - 1, "wrong;", "clean" if "BUG" not in log and "Call Trace" not in log else log)
"""
"""Of the sums one is what the guest computes at its start."""


@pytest.mark.parametrize("irqchip", ["own", "kernel"])
def test_linux_goes_from_kvm_to_translation_and_back(host, irqchip):
    script = SWITCH.replace("IRQCHIP", irqchip).encode()
    result = host.run(f"timeout -s KILL 250 {PYTHON} -", input=script, timeout=260)
    assert result.stdout == b"1 wrong; clean\n", result.stdout + result.stderr


SNAPSHOT = """
from gasang import Machine

with Machine.boot(
    kernel="/guest/vmlinuz", initrd="/guest/initrd", append="console=ttyS0 quiet rdinit=/init.guest",
    accel="FIRST", cpus=2, irqchip="IRQCHIP", switchable="FIRST" == "bt",
) as vm:
    vm.console.expect("up: ", timeout=None)
    vm.console.write("seq 30000 | sha256sum >/sum; echo $((6 * 7)) >/answer; echo kept $(cat /answer)\\n")
    vm.console.expect("kept 42\\r\\n", timeout=None)
    vm.snapshot("/tmp/linux.snap")
for accel in ("bt", "kvm"):
    with Machine.restore("/tmp/linux.snap", accel=accel) as vm:
        vm.console.write("seq 30000 | sha256sum | cmp - /sum && sleep 0.1 && echo still $(cat /answer)\\n")
        vm.console.expect("still 42\\r\\n", timeout=None)
        log = vm.console.log.decode()
        print(vm.accelerator.name, "clean" if "BUG" not in log and "Call Trace" not in log else log)
"""


@pytest.mark.parametrize("irqchip", ["own", "kernel"])
@pytest.mark.parametrize("first", ["bt", "kvm"])
def test_linux_goes_on_from_the_same_snapshot_on_both(host, first, irqchip):
    """One made by translation, which offers its guests more than KVM does, as long as it offered no more."""
    script = SNAPSHOT.replace("IRQCHIP", irqchip).replace("FIRST", first).encode()
    result = host.run(f"timeout -s KILL 200 {PYTHON} -", input=script, timeout=220)
    assert result.stdout == b"bt clean\nkvm clean\n", result.stdout + result.stderr


DISK = """
import hashlib, os
from gasang import Machine

content = hashlib.shake_256(b"disk").digest(1 << 20) * 8
with open("/tmp/disk.img", "wb") as file:
    file.write(content)
with Machine.boot(
    kernel="/guest/vmlinuz", initrd="/guest/initrd", append="console=ttyS0 quiet rdinit=/init.guest",
    accel="kvm", cpus=2, irqchip="IRQCHIP", drives=["/tmp/disk.img"],
) as vm:
    vm.console.write("modprobe virtio_pci; modprobe virtio_blk; sha256sum /dev/vda; echo read $((6 * 7))\\n")
    vm.console.expect("read 42\\r\\n", timeout=None)
    vm.console.write("printf changed | dd of=/dev/vda conv=notrunc,fsync; echo written $((6 * 7))\\n")
    vm.console.expect("written 42\\r\\n", timeout=None)
    said = vm.console.log.decode()
with open("/tmp/disk.img", "rb") as file:
    after = file.read()
print(hashlib.sha256(content).hexdigest() in said, after == b"changed" + content[7:])
"""


@pytest.mark.parametrize("irqchip", ["own", "kernel"])
def test_a_disk_rings_and_interrupts_by_the_kernel(host, irqchip):
    script = DISK.replace("IRQCHIP", irqchip).encode()
    result = host.run(f"timeout -s KILL 150 {PYTHON} -", input=script, timeout=160)
    assert result.stdout == b"True True\n", result.stdout + result.stderr


def test_the_suite_of_small_guests_passes(host):
    command = f"cd /opt/tests/seam && {PYTHON} -m pytest -q -k 'kvm or switching' -p no:cacheprovider ."
    result = host.run(f'timeout -s KILL 280 sh -c "{command}"', timeout=290)
    said = result.stdout.decode(errors="replace")
    assert result.returncode == 0, said + result.stderr.decode()
    passed = re.search(r"^(\d+) passed", said, re.MULTILINE)
    assert passed, said
    assert int(passed[1]) > 100
