"""Linux on several processors: all come up, and survive what stresses them."""

from pathlib import Path

import pytest

from gasang import Machine
from gasang.guest import CLOUD_KERNEL, dependencies, fetch_package
from gasang.guest.deb import read_member

STRESS = Path(__file__).with_name("stress.c")


@pytest.fixture(scope="module", params=[2, 4, 8])
def machine(request):
    """A machine of several processors, and how many they are."""
    with Machine.boot(cpus=request.param, accel="bt") as machine:
        yield machine, request.param


@pytest.fixture(scope="session")
def stress(compile_for_linux):
    """The program that stresses processors, for any Linux."""
    return compile_for_linux(STRESS)


@pytest.fixture(scope="session")
def modules():
    """Some of the kernel's modules, by name."""
    package = next(name for name in dependencies(CLOUD_KERNEL) if name.startswith("linux-image-"))
    file = fetch_package(package)

    def module(name):
        return read_member(file, lambda path: path.endswith(f"/{name}.ko"))[1]

    return {name: module(name) for name in ("loop", "rmd160")}


def output(machine, script, **options):
    return machine.run(script, timeout=120, check=True, **options).stdout.decode()


def test_all_processors_are_online(machine):
    machine, count = machine
    assert output(machine, "nproc; cat /sys/devices/system/cpu/online") == f"{count}\n0-{count - 1}\n"
    known = output(
        machine, "grep -c '^processor' /proc/cpuinfo; grep 'apicid' /proc/cpuinfo | sort -u | wc -l"
    )
    assert int(known.split()[0]) == count


def test_each_processor_does_work(machine):
    machine, count = machine
    script = (
        f"for cpu in $(seq 0 {count - 1}); do taskset -c $cpu awk '{{ print $39 }}' /proc/self/stat; done"
    )
    assert output(machine, script).split() == [str(cpu) for cpu in range(count)]


def test_processors_go_and_come_back(machine):
    machine, count = machine
    script = f"""
        for round in 1 2 3; do
            for cpu in $(seq 1 {count - 1}); do echo 0 > /sys/devices/system/cpu/cpu$cpu/online; done
            cat /sys/devices/system/cpu/online
            for cpu in $(seq 1 {count - 1}); do echo 1 > /sys/devices/system/cpu/cpu$cpu/online; done
            cat /sys/devices/system/cpu/online
        done
    """
    assert output(machine, script).split() == ["0", f"0-{count - 1}"] * 3


def test_processes_in_parallel(machine):
    machine, _ = machine
    script = """
        for job in $(seq 32); do (for i in $(seq 20); do /bin/true; done; echo done) & done
        wait
    """
    assert output(machine, script) == "done\n" * 32


def test_threads_and_maps_and_forks(machine, stress):
    machine, _ = machine
    output(machine, "cat > /tmp/stress; chmod +x /tmp/stress", input=stress)
    assert output(machine, "/tmp/stress") == "nothing was lost\n"


def test_modules_come_and_go(machine, modules):
    machine, _ = machine
    for name, content in modules.items():
        output(machine, f"cat > /tmp/{name}.ko", input=content)
    script = """
        (while [ ! -e /tmp/stop ]; do /bin/true; done) &
        for round in $(seq 10); do
            for name in loop rmd160; do insmod /tmp/$name.ko && rmmod $name || exit 1; done
        done
        touch /tmp/stop; wait; rm /tmp/stop
        lsmod | wc -l
    """
    assert output(machine, script).split()[-1] in ("0", "1")


@pytest.mark.parametrize(
    "switch",
    [
        "GASANG_STRICT_FLAGS",
        "GASANG_FLUSH_ON_WRITE",
        pytest.param("GASANG_TINY_CACHE", marks=pytest.mark.slow),
    ],
)
def test_processors_under_stress(switch, monkeypatch):
    monkeypatch.setenv(switch, "1")
    with Machine.boot(cpus=2, accel="bt") as machine:
        assert machine.run("nproc", timeout=250).stdout == b"2\n"


def test_nothing_was_wrong(machine):
    machine, _ = machine
    complaints = "dmesg | grep -iE 'BUG:|WARNING:|Oops|stall|lockup|unexpected|Call Trace' || true"
    assert output(machine, complaints) == ""
