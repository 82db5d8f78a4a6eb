"""Virtio devices by MMIO: Linux finds them by ACPI, and all of them work."""

import pytest

from gasang import ConfigError, Machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("folder")
    (place / "file").write_text("shared\n")
    return place


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    path = tmp_path_factory.mktemp("disk") / "disk.img"
    path.write_bytes(b"sector" + bytes((1 << 20) - 6))
    return path


@pytest.fixture(scope="module")
def vm(folder, disk):
    options = {"rng": True, "balloon": True, "vsock": True, "net": "user", "ports": ["port"]}
    with Machine.boot(
        transport="mmio", drives=[disk], folders=[f"{folder}:/mnt"], accel="bt", cpus=2, **options
    ) as vm:
        yield vm


def test_every_device_is_on_a_line_of_its_own_and_none_on_pci(vm):
    lines = vm.run("grep -c IO-APIC.*virtio /proc/interrupts; ls /sys/bus/pci/devices", check=True).stdout
    assert lines.split() == [b"7", b"0000:00:00.0"]


def test_devices_work(vm):
    script = """
        head -c 6 /dev/vda; echo; cat /mnt/file; ip addr show eth0 | grep -c 10.0.2.15
        cat /sys/class/misc/hw_random/rng_current
    """
    said = vm.run(script, check=True).stdout.decode().splitlines()
    assert said[:3] == ["sector", "shared", "1"]
    assert said[3].startswith("virtio_rng")
    vm.run("echo written | dd of=/dev/vda bs=512 conv=sync 2>/dev/null; sync", check=True)
    vm.run("echo hello >/dev/virtio-ports/port", check=True)
    vm.port("port").expect("hello")


def test_a_large_file_passes(vm, folder):
    data = bytes(range(256)) * 20_000
    (folder / "large").write_bytes(data)
    assert vm.run("cat /mnt/large", check=True, timeout=60).stdout == data


def test_a_snapshot_of_it_restores(tmp_path):
    with Machine.boot(transport="mmio", rng=True, vsock=True, accel="bt") as vm:
        vm.run("echo 42 >/tmp/answer", check=True)
        vm.snapshot(tmp_path / "mmio.snap")
        with vm.fork()[0] as clone:
            assert clone.run("cat /tmp/answer; head -c 4 /dev/hwrng | wc -c").stdout.split() == [b"42", b"4"]
    with Machine.restore(tmp_path / "mmio.snap") as vm:
        assert vm.run("cat /tmp/answer; head -c 4 /dev/hwrng | wc -c").stdout.split() == [b"42", b"4"]


def test_the_command_line_has_it(gasang):
    words = ("run", "-q", "--transport", "mmio", "--", "ls", "/sys/bus/platform/drivers/virtio-mmio")
    for _ in range(2):  # the second in a snapshot
        assert b"LNRO0005:00" in gasang(*words).stdout


def test_there_is_room_for_eight(tmp_path):
    with pytest.raises(ConfigError, match="9 virtio devices by MMIO: there is room for 8"):
        Machine.boot(transport="mmio", drives=[tmp_path / "x"] * 9)
