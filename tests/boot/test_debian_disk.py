"""A Debian on a disk, with GRUB in its master boot record: SeaBIOS boots it, and its services come up.

make disks
"""

import os

import pytest

from gasang import Machine
from gasang.storage.create import create_qcow2

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

UP = "until [ $(systemctl is-system-running) != starting ]; do sleep 0.2; done; systemctl is-system-running"


@pytest.fixture(scope="module")
def disk(gasang, tmp_path_factory):
    """The disk; tests leave it as it is."""
    place = tmp_path_factory.mktemp("disk")
    done = gasang("image", "build", "-q", "debian", place / "debian.qcow2", "--disk", "2G", timeout=1500)
    assert done.returncode == 0, done.stderr.decode()
    assert os.listdir(place) == ["debian.qcow2"]
    return place / "debian.qcow2"


@pytest.fixture
def mine(disk, tmp_path):
    """A disk on top of it, to be written."""
    create_qcow2(tmp_path / "mine.qcow2", None, disk)
    return tmp_path / "mine.qcow2"


def test_it_boots_and_all_its_services_run(mine):
    with Machine.boot(bios="seabios", drives=[mine], vsock=True, net="user", memory="1G", accel="bt") as vm:
        assert vm.run(UP, timeout=300).stdout == b"running\n"
        console = vm.console.log.decode(errors="replace")
        assert "SeaBIOS (version" in console
        assert "Booting from Hard Disk" in console
        lines = vm.run(
            "cat /etc/hostname; findmnt -no SOURCE,FSTYPE /; cat /proc/cmdline; ip -br addr show eth0",
            check=True,
        )
        hostname, root, words, address = lines.stdout.decode().splitlines()
        assert (hostname, root.split()) == ("debian", ["/dev/vda1", "ext4"])
        assert words.startswith("BOOT_IMAGE=/boot/vmlinuz-")
        assert " 10.0.2.15/24" in address
        vm.console.expect("debian login: ", timeout=120)
        vm.console.write("root\n")
        vm.console.expect(r"root@debian:~# ", timeout=120)
        vm.press_power_button()
        assert vm.wait(300).reason == "power-off"


def test_what_it_writes_is_there_when_it_boots_again(mine):
    for number in range(2):
        with Machine.boot(bios="seabios", drives=[mine], vsock=True, memory="1G", cpus=2, accel="bt") as vm:
            assert vm.run("nproc", timeout=300).stdout == b"2\n"
            assert vm.run("cat /root/boots").stdout == b"boot\n" * number
            vm.run("echo boot >>/root/boots; sync", check=True)
            vm.run("systemctl poweroff")
            assert vm.wait(300).reason == "power-off"


def test_it_is_saved_and_goes_on(mine, tmp_path):
    with Machine.boot(bios="seabios", drives=[mine], vsock=True, memory="1G", accel="bt") as vm:
        vm.run("echo 42 >/run/answer; sync", timeout=300, check=True)
        vm.pause()  # lest it writes its disk once more
        vm.snapshot(tmp_path / "debian.snap")
    with Machine.restore(tmp_path / "debian.snap") as vm:
        assert vm.run("cat /run/answer; systemctl is-active systemd-journald").stdout == b"42\nactive\n"


def test_the_command_line_runs_a_command_in_it(gasang, mine):
    words = ("--bios", "seabios", "--drive", mine, "-m", "1G", "--accel", "bt", "--timeout", "300")
    done = gasang("run", "-q", *words, "--", "sh", "-c", "cat /etc/debian_version; exit 5", timeout=330)
    assert done.returncode == 5
    assert done.stdout[:2].isdigit()
