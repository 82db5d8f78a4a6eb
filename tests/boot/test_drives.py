"""Disks of a Debian guest: virtio over PCI, as its kernel's own modules find it."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys

import pytest

from gasang import Machine
from gasang.config import Drive
from gasang.errors import ConfigError

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(hashlib.shake_256(b"disk").digest(MIB) * 32)
    return path


def test_a_file_system_is_made_written_and_read_again(disk):
    with Machine.boot(drives=[disk]) as machine:
        made = "mke2fs /dev/vda >/dev/null && mkdir /mnt && mount /dev/vda /mnt && seq 100000 >/mnt/numbers"
        machine.run(f"{made} && umount /mnt", timeout=120, check=True)
    with Machine.boot(drives=[disk], cpus=2) as machine:
        machine.run("mkdir /mnt && mount -o ro /dev/vda /mnt", timeout=120, check=True)
        said = machine.run("sha256sum </mnt/numbers", timeout=60, check=True).stdout
    numbers = "".join(f"{number}\n" for number in range(1, 100001)).encode()
    assert said.split()[0].decode() == hashlib.sha256(numbers).hexdigest()


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
def test_a_qcow2_image_grows_with_what_is_written(tmp_path):
    path = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1G"], check=True)
    with Machine.boot(drives=[path]) as machine:
        make = "mke2fs /dev/vda >/dev/null && mkdir /mnt && mount /dev/vda /mnt && seq 1000000 >/mnt/numbers"
        machine.run(f"{make} && umount /mnt", timeout=120, check=True)
        machine.run("mount /dev/vda /mnt && sha256sum /mnt/numbers && umount /mnt", timeout=60, check=True)
    assert path.stat().st_size < 64 * MIB
    checked = subprocess.run(["qemu-img", "check", path], capture_output=True, text=True, check=True)
    assert "No errors were found" in checked.stdout


def test_bytes_are_those_of_the_file_and_interrupts_are_messages(disk):
    with Machine.boot(drives=[disk]) as machine:
        summed = machine.run("sha256sum </dev/vda", timeout=120, check=True).stdout.split()[0].decode()
        assert summed == hashlib.sha256(disk.read_bytes()).hexdigest()
        assert b"PCI-MSI" in machine.run("grep virtio0-req /proc/interrupts", timeout=60).stdout
        write = "printf changed | dd of=/dev/vda bs=1 seek=1000 conv=notrunc,fsync"
        machine.run(write, timeout=60, check=True)
    assert (
        disk.read_bytes()[995:1010]
        == hashlib.shake_256(b"disk").digest(1000)[995:]
        + b"changed"
        + (hashlib.shake_256(b"disk").digest(1010)[1007:])
    )


def test_drives_keep_their_order_and_one_to_be_read_is_not_written(disk, tmp_path):
    second = tmp_path / "second.img"
    second.write_bytes(bytes(3 * MIB))
    before = disk.read_bytes()
    with Machine.boot(drives=[second, Drive(disk, readonly=True)]) as machine:
        sizes = machine.run("cat /sys/block/vda/size /sys/block/vdb/size /sys/block/vdb/ro", timeout=120)
        assert sizes.stdout.split() == [b"6144", b"65536", b"1"]
        assert machine.run("cat /sys/block/vda/serial", timeout=60).stdout == b"gasang-0"
        assert machine.run("echo no >/dev/vdb", timeout=60).returncode != 0
    assert disk.read_bytes() == before


def test_discarded_blocks_are_given_back(disk):
    before = disk.stat().st_blocks
    with Machine.boot(drives=[disk]) as machine:
        machine.run("blkdiscard /dev/vda", timeout=120, check=True)
    assert disk.stat().st_blocks < before // 2
    assert disk.read_bytes() == bytes(32 * MIB)


def test_a_deterministic_machine_has_disks_too(disk):
    outputs, hashes = set(), set()
    for _ in range(2):
        with Machine.boot(drives=[Drive(disk, readonly=True)], deterministic=True) as machine:
            outputs.add(machine.run("sha256sum </dev/vda; cat /proc/uptime", timeout=200, check=True).stdout)
            hashes.add(machine.state_hash())
    assert len(outputs) == len(hashes) == 1


WRITER = """
import sys
from gasang import Machine
with Machine.boot(drives=[sys.argv[1]]) as machine:
    machine.run("mke2fs /dev/vda >/dev/null && mkdir /mnt && mount /dev/vda /mnt", timeout=120, check=True)
    for number in range(1000000):
        write = f"seq {number} 500 >/mnt/{number % 50}; sync; echo {number} >/mnt/last; sync"
        machine.run(write, timeout=60, check=True)
        print(number, flush=True)
"""


def test_a_process_that_is_killed_while_it_writes_leaves_what_was_synced(disk):
    """What the guest flushed is there, and the file system can be mounted."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(disk)], stdout=subprocess.PIPE, text=True)
    done = 0
    while done < 10:
        line = process.stdout.readline()
        assert line, "the writer ended by itself"
        done = int(line)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with Machine.boot(drives=[disk]) as machine:
        machine.run("mkdir /mnt && mount /dev/vda /mnt", timeout=120, check=True)
        assert int(machine.run("cat /mnt/last", timeout=60, check=True).stdout) >= done
        assert machine.run(f"head -n1 /mnt/{done % 50}", timeout=60).stdout.strip().isdigit()


def test_random_numbers_come_from_the_host_or_from_the_seed():
    read = "cat /sys/class/misc/hw_random/rng_current; head -c 64 /dev/hwrng | sha256sum"
    said = set()
    for options in ({}, {}, {"deterministic": True}, {"deterministic": True}):
        with Machine.boot(rng=True, **options) as machine:
            said.add(machine.run(read, timeout=120, check=True).stdout)
    assert len(said) == 3, "two that differ, and two that are the same"
    assert all(each.startswith(b"virtio_rng.0\n") for each in said)


def test_a_machine_that_cannot_be_leaves_no_thread_and_no_open_disk(disk, tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        Machine.boot(drives=[disk, tmp_path / "none"])
    with (
        Machine.boot(drives=[disk]) as machine,
        pytest.raises(ConfigError, match="in use by another machine"),
    ):
        Machine.boot(drives=[disk])
    assert machine.outcome is not None
    with Machine.boot(drives=[disk]):
        pass
