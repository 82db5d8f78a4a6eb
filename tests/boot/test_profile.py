"""What profilers are told of a guest, at the default guest."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gasang import Machine
from gasang.errors import ConfigError


@pytest.fixture
def perf_map():
    """The map of this process, removed in the end."""
    path = Path(f"/tmp/perf-{os.getpid()}.map")
    yield path
    path.unlink(missing_ok=True)


def test_the_perf_map_names_the_kernels_functions(perf_map):
    with Machine.boot(accel="bt", perf_map=True) as machine:
        machine.run(["true"], timeout=60, check=True)
    lines = [line.split(" ", 2) for line in perf_map.read_text().splitlines()]
    assert len(lines) == machine.statistics()["blocks_translated"]
    assert all(int(address, 16) > 0 and int(size, 16) > 0 for address, size, _ in lines)
    names = {name.partition("+")[0].partition(" ")[0] for _, _, name in lines}
    assert {"do_syscall_64", "schedule", "exc_page_fault", "kmem_cache_alloc"} <= names
    assert any(name.endswith("[T1 CPL3]") for _, _, name in lines)


def test_a_profile_says_where_a_boot_went(gasang, tmp_path):
    done = gasang("run", "--profile", tmp_path / "profile.json", "-q", "--", "true")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    found = json.loads((tmp_path / "profile.json").read_text())
    phases = {each["name"]: each for each in found["phases"]}
    counters = found["counters"]
    assert phases["translate"]["count"] >= counters["blocks_translated"]
    assert phases["code"]["count"] == counters["code_entries"]
    assert sum(each["seconds"] for each in phases.values()) == pytest.approx(found["seconds"])
    assert sum(each["count"] for each in found["instructions"]) == phases["interpret"]["count"]
    assert {"IRETQ", "OUT DX, EAX"} <= {each["form"] for each in found["forms"]}
    assert any(each["kind"] == "pio_read" and each["place"] == 0x71 for each in found["exits"])
    assert any(each["name"].startswith("clear_page") for each in found["symbols"])


def test_a_profile_goes_to_stderr(gasang):
    done = gasang("run", "--profile", "-q", "--", "true")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.startswith(b"profile of 1 processor: ")
    assert b"translated code (T1)" in done.stderr


def test_profiling_begins_and_ends_while_a_machine_runs(guest):
    with pytest.raises(ConfigError, match="not profiled"):
        guest.profile()
    guest.start_profile()
    guest.run("seq 1000 | sort >/dev/null", timeout=60, check=True)
    found = guest.profile()
    assert found.processors == 1
    assert sum(phase.seconds for phase in found.phases if phase.name in ("code", "interpret")) > 0
    guest.stop_profile()
    with pytest.raises(ConfigError, match="not profiled"):
        guest.profile()


@pytest.fixture
def running(tmp_path):
    """A guest that runs until it is killed, named "busy", and the environment in which it is seen."""
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "gasang", "run", "-q", "--name", "busy", "--"]
    script = "echo ready; while :; do :; done"
    with subprocess.Popen([*command, "sh", "-c", script], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"ready\n"
        yield process, environment
        process.kill()


def test_top_shows_a_running_machine_until_it_is_killed(gasang, running, tmp_path):
    process, environment = running
    for which in ("busy", str(process.pid)):
        done = gasang("top", "--once", "-d", "0.5", which, env=environment)
        assert (done.returncode, done.stderr) == (0, b"")
        assert f"{process.pid} busy: 1 CPU, 512M".encode() in done.stdout
        assert b" T1 " in done.stdout
    process.kill()
    process.wait()
    assert [path.name for path in tmp_path.glob("gasang/*")] == [f"{process.pid}.socket"]
    done = gasang("top", "--once", env=environment)
    assert (done.returncode, done.stderr) == (1, b"gasang: error: no machine is running\n")
    assert list(tmp_path.glob("gasang/*")) == []


def test_profiling_again_and_again_does_not_disturb_two_processors():
    script = "for i in 1 2; do seq 20000 | sort | md5sum & seq 20000 | sort | md5sum; wait; done"
    with Machine.boot(cpus=2) as machine:
        expected = machine.run("seq 20000 | sort | md5sum", timeout=60, check=True).stdout
        results = []
        worker = threading.Thread(target=lambda: results.append(machine.run(script, timeout=120, check=True)))
        worker.start()
        rounds = 0
        while worker.is_alive() or rounds < 3:
            machine.start_profile()
            assert machine.profile().processors == 2
            machine.stop_profile()
            rounds += 1
        assert results[0].stdout == 4 * expected


def test_a_profile_does_not_change_a_deterministic_machine(gasang, tmp_path):
    def ending(*options):
        done = gasang("run", "-q", "--deterministic", "--state-hash", *options, "--", "true")
        assert done.returncode == 0
        [said] = [line for line in done.stderr.splitlines() if b"state hash" in line]
        return said

    assert ending() == ending("--profile", tmp_path / "profile", "--count-blocks")
