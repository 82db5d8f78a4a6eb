"""Machines that stand still, are saved, restored and forked: the guest goes on, and is mended."""

import gc
import json
import os
import threading
import time
from datetime import UTC, datetime

import pytest

from gasang import Machine
from gasang.config import Drive
from gasang.errors import ConfigError, GuestAgentError, MachineDied, SnapshotError
from gasang.snapshot.file import Snapshot
from gasang.storage.create import create_qcow2

PATIENCE = 120


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """A snapshot of a guest that holds a value in memory and runs a command."""
    path = tmp_path_factory.mktemp("snapshot") / "warm.snap"
    with Machine.boot(vsock=True, memory="128M", accel="bt") as machine:
        machine.run("echo 42 >/tmp/value; (while :; do sleep 1; done) >/dev/null 2>&1 &", timeout=PATIENCE)
        machine.snapshot(path)
        assert machine.run("cat /tmp/value", timeout=PATIENCE).stdout == b"42\n", "it goes on"
    return path


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def ask(machine, command):
    return machine.run(command, timeout=PATIENCE, check=True).stdout.decode().strip()


def test_a_restored_guest_goes_on_where_it_was(warm):
    with Machine.restore(warm) as machine:
        assert ask(machine, "cat /tmp/value") == "42"
        assert "sleep 1" in ask(machine, "ps")


def test_guests_of_one_snapshot_are_told_apart(warm):
    questions = (
        "hostname; cat /etc/machine-id; od -An -tx8 -N16 /dev/urandom; cat /proc/sys/kernel/random/uuid"
    )
    with Machine.restore(warm) as one, Machine.restore(warm) as other:
        for mine, others in zip(ask(one, questions).split(), ask(other, questions).split(), strict=True):
            assert mine != others


def test_the_clock_is_stepped(warm):
    with Machine.restore(warm) as machine:
        for command in ("date +%s", "hwclock -u -r -f /dev/rtc0 >/dev/null 2>&1; date +%s"):
            assert abs(int(ask(machine, command)) - time.time()) < 5


def test_restoring_writes_nothing_to_the_file(warm):
    before = warm.read_bytes()
    with Machine.restore(warm) as machine:
        ask(machine, "dd if=/dev/urandom of=/tmp/x bs=1M count=10 2>/dev/null; sync")
    assert warm.read_bytes() == before


def test_a_snapshot_of_a_restored_machine_has_all_of_it(warm, tmp_path):
    with Machine.restore(warm) as machine:
        ask(machine, "echo 43 >/tmp/second")
        machine.snapshot(tmp_path / "second.snap")
    with Machine.restore(tmp_path / "second.snap") as machine:
        assert ask(machine, "cat /tmp/value /tmp/second") == "42\n43"


def test_clones_go_their_own_ways(warm):
    with Machine.restore(warm) as machine:
        clones = machine.fork(3)
        try:
            for number, clone in enumerate(clones):
                ask(clone, f"echo {number} >/tmp/value")
            assert [ask(clone, "cat /tmp/value") for clone in clones] == ["0", "1", "2"]
            assert ask(machine, "cat /tmp/value") == "42"
            assert len({ask(clone, "hostname") for clone in clones}) == 3
            (grandchild,) = clones[0].fork()
            with grandchild:
                assert ask(grandchild, "cat /tmp/value") == "0"
        finally:
            for clone in clones:
                clone.stop()


def test_a_command_that_runs_goes_on_where_its_caller_is(warm):
    """In the copy nobody waits for it any more: the agent there ends it, as for any caller that is gone."""
    with Machine.restore(warm) as machine:
        process = machine.popen("sleep 100; echo late", timeout=PATIENCE)
        (clone,) = machine.fork()
        with clone:
            wait_until(lambda: "sleep 100" not in ask(clone, "ps"))
        assert "sleep 100" in ask(machine, "ps")
        assert process.poll() is None, "its own machine goes on"
        process.kill()
        process.wait(timeout=PATIENCE)


def test_time_stands_still_with_the_machine(warm):
    with Machine.restore(warm) as machine:
        ask(machine, "true")
        machine.pause()
        machine.pause()
        before = machine.statistics()["instructions"]
        time.sleep(1.5)
        assert machine.statistics()["instructions"] == before
        machine.resume()
        machine.resume()
        up = float(ask(machine, "cut -d' ' -f1 /proc/uptime"))
        machine.pause()
        time.sleep(2)
        machine.resume()
        assert float(ask(machine, "cut -d' ' -f1 /proc/uptime")) - up < 1.9


def test_a_machine_that_stands_still_can_be_stopped(warm):
    machine = Machine.restore(warm)
    machine.pause()
    machine.stop()
    with pytest.raises(SnapshotError, match="has ended"):
        machine.snapshot("/tmp/never.snap")
    with pytest.raises(MachineDied):
        machine.run("true", timeout=PATIENCE)


def test_snapshots_are_made_under_load(warm, tmp_path):
    """While commands come and go in another thread; each snapshot works."""
    with Machine.restore(warm) as machine:
        over = threading.Event()

        def load():
            while not over.is_set():
                ask(machine, "seq 1000 | sha256sum")

        thread = threading.Thread(target=load)
        thread.start()
        try:
            for number in range(4):
                machine.snapshot(tmp_path / f"{number}.snap")
        finally:
            over.set()
            thread.join()
    for number in range(4):
        with Machine.restore(tmp_path / f"{number}.snap") as machine:
            assert ask(machine, "cat /tmp/value") == "42"


def test_two_processors_and_the_agent_on_serial_ports(tmp_path):
    with Machine.boot(memory="128M", cpus=2, accel="bt") as machine:
        assert ask(machine, "nproc") == "2"
        ask(machine, "echo 7 >/tmp/value")
        machine.snapshot(tmp_path / "two.snap")
    with Machine.restore(tmp_path / "two.snap") as machine:
        assert ask(machine, "cat /tmp/value; nproc") == "7\n2"
        assert abs(int(ask(machine, "date +%s")) - time.time()) < 5


def test_a_command_on_serial_ports_is_not_cut_in_two(tmp_path):
    with Machine.boot(memory="128M", accel="bt") as machine:
        ask(machine, "true")
        thread = threading.Thread(target=ask, args=(machine, "sleep 2"))
        thread.start()
        time.sleep(0.3)
        with pytest.raises(SnapshotError, match="a command is being run"):
            machine.snapshot(tmp_path / "a.snap")
        thread.join()
        assert os.listdir(tmp_path) == []


def test_a_deterministic_machine_is_the_same_run_after_it(tmp_path):
    """It goes on as the machine would have that was never saved."""
    hashes = []
    options = {"memory": "128M", "accel": "bt", "deterministic": True, "seed": 5}
    with Machine.boot(**options) as machine:
        ask(machine, "echo 1 >/tmp/value")
        machine.snapshot(tmp_path / "a.snap")
        ask(machine, "sha256sum /bin/busybox; head -c 8 /dev/urandom | od -tx8")
        hashes.append(machine.state_hash())
    with Machine.restore(tmp_path / "a.snap") as machine:
        ask(machine, "sha256sum /bin/busybox; head -c 8 /dev/urandom | od -tx8")
        hashes.append(machine.state_hash())
    assert hashes[0] == hashes[1]


def test_devices_go_on(tmp_path):
    image = tmp_path / "disk.raw"
    image.write_bytes(b"first".ljust(1 << 20, b"\0"))
    drives = [Drive(image)]
    with Machine.boot(
        memory="128M", accel="bt", drives=drives, rng=True, balloon=True, vsock=True
    ) as machine:
        assert ask(machine, "head -c 5 /dev/vda") == "first"
        with pytest.raises(SnapshotError, match="readonly"):
            machine.fork()
        machine.snapshot(tmp_path / "a.snap")
        with pytest.raises(SnapshotError, match=r"disk\.raw"):
            Machine.restore(tmp_path / "a.snap")
    with Machine.restore(tmp_path / "a.snap") as machine:
        ask(machine, "echo second | dd of=/dev/vda conv=notrunc,fsync 2>/dev/null")
        assert len(ask(machine, "head -c 16 /dev/hwrng | od -An -tx1").split()) == 16
        machine.set_balloon("16M")
        ask(machine, "sleep 1")
        assert machine.balloon > 0
    assert image.read_bytes().startswith(b"second")
    with pytest.raises(SnapshotError, match="has changed since"):
        Machine.restore(tmp_path / "a.snap")
    image.unlink()
    with pytest.raises(SnapshotError, match="No such file"):
        Machine.restore(tmp_path / "a.snap")


def rewritten(warm, path, change):
    """A copy of the snapshot with another state."""
    from gasang.snapshot.file import write  # noqa: PLC0415

    with Snapshot.open(warm) as snapshot:
        state = json.loads(json.dumps(snapshot.state))
        change(state)

        def ram(descriptor, offset):
            return snapshot.ram_digest

        write(path, state, snapshot.ram_length, ram)
    return path


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: state.pop("config"), "no config"),
        (lambda state: state["config"].pop("kernel"), "configuration"),
        (lambda state: state["config"].update(cpus=2), "processors"),
        (lambda state: state["config"].update(memory=1 << 30), "RAM"),
        (lambda state: state["config"].update(cpu="nonesuch"), "nonesuch"),
        (lambda state: state["config"].update(rng=True), "device"),
        (lambda state: state.update(date="yesterday"), "date"),
        (lambda state: state["machine"]["engine"]["features"].append("sgx"), "had sgx"),
        (lambda state: state["machine"]["devices"].pop("clock"), "device"),
        (lambda state: state["machine"]["slots"][0].update(device_id=1), "in the place of"),
        (lambda state: state["ports"].pop("channels"), "channels"),
    ],
)
def test_a_state_that_no_machine_has_is_refused(warm, tmp_path, change, reason):
    path = rewritten(warm, tmp_path / "other.snap", change)
    threads = threading.active_count()
    with pytest.raises(SnapshotError, match=reason):
        Machine.restore(path)
    assert threading.active_count() <= threads


def test_nothing_is_left_of_machines_that_were(warm):
    def descriptors():
        gc.collect()  # An error that was raised keeps what its traceback shows.
        return len(os.listdir("/proc/self/fd"))

    def live():
        with Machine.restore(warm) as machine:
            ask(machine, "true")
            for clone in machine.fork(2):
                clone.stop()

    live()
    before = descriptors(), threading.active_count()
    for _ in range(5):
        live()
    assert (descriptors(), threading.active_count()) <= before


def test_copies_may_begin_standing_still(warm):
    with Machine.restore(warm, paused=True) as machine:
        before = machine.statistics()["instructions"]
        (clone,) = machine.fork(paused=True)
        with clone:
            time.sleep(0.3)
            assert machine.statistics()["instructions"] == before
            machine.resume()
            clone.resume()
            assert [ask(each, "cat /tmp/value") for each in (machine, clone)] == ["42", "42"]


def test_fork_wants_a_number(warm):
    with Machine.restore(warm) as machine, pytest.raises(ConfigError, match="one or more"):
        machine.fork(0)


def test_a_guest_without_its_agent_is_said(warm):
    """What cannot be mended is logged, and commands fail with the reason."""
    with Machine.restore(warm) as machine:
        machine.popen("sleep 0.2; kill -9 $(pidof gasang-agent)", timeout=PATIENCE)
        time.sleep(1)
        (clone,) = machine.fork()
        with clone, pytest.raises(GuestAgentError):
            clone.run("true", timeout=PATIENCE)


def test_snapshots_say_when_they_were_made(warm):
    with Snapshot.open(warm) as snapshot:
        age = datetime.now(UTC) - datetime.fromisoformat(snapshot.state["date"])
    assert 0 <= age.total_seconds() < 3600


def test_a_qcow2_disk_that_is_not_written_any_more_is_the_same_after_its_machine(tmp_path):
    create_qcow2(tmp_path / "disk.qcow2", 64 << 20)
    with Machine.boot(drives=[tmp_path / "disk.qcow2"], vsock=True, accel="bt") as vm:
        vm.run("echo written >/dev/vda", check=True)
        vm.pause()
        vm.snapshot(tmp_path / "it.snap")
    with Machine.restore(tmp_path / "it.snap") as vm:
        assert vm.run("head -c 7 /dev/vda").stdout == b"written"
