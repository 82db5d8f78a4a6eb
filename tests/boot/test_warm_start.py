"""`gasang run -- CMD` begins in a snapshot of the default guest that is up."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gasang.guest.cache import cache_directory

PATIENCE = 120


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache with the guest's parts and no snapshots."""
    place = tmp_path_factory.mktemp("cache") / "gasang"
    shutil.copytree(cache_directory() / "guest", place / "guest", copy_function=os.link)
    return place


def gasang(cache, *words, stdin=b""):
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache.parent)}
    command = [sys.executable, "-m", "gasang", "run", "-m", "128M", "--accel", "bt", *words]
    return subprocess.run(
        command, env=environment, input=stdin, capture_output=True, timeout=PATIENCE, check=False
    )


def snapshots(cache):
    return sorted(Path(cache / "warm").glob("*")) if (cache / "warm").exists() else []


def test_the_second_command_does_not_boot(cache):
    code = "cat; echo error >&2; cut -d. -f1 /proc/uptime; exit 7"
    first = gasang(cache, "--", "sh", "-c", code, stdin=b"in")
    assert (first.returncode, first.stdout[:2]) == (7, b"in")
    (made,) = snapshots(cache)
    inode = made.stat().st_ino
    second = gasang(cache, "--", "sh", "-c", code, stdin=b"in")
    assert (second.returncode, second.stdout[:2]) == (7, b"in")
    assert b"error" in second.stderr
    assert [each.stat().st_ino for each in snapshots(cache)] == [inode], "it was used"


def test_the_second_command_loads_only_what_it_uses(cache):
    """Modules that take long to load, and are for other things: a boot, archives, errors, processes."""
    gasang(cache, "--", "true")
    program = (
        "import sys; from gasang.__main__ import main; "
        "sys.argv[1:] = ['run', '-q', '-m', '128M', '--accel', 'bt', '--', 'true']; "
        "code = main(); print(code, *sorted(sys.modules))"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache.parent)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, timeout=PATIENCE, check=True
    )
    code, *loaded = done.stdout.decode().split()
    assert code == "0"
    assert "gasang.machine.snapshots" in loaded
    slow = {"gasang.loaders.image", "gasang.firmware.tables", "gasang.guest.default", "gasang.guest.agent"}
    slow |= {"logging", "random", "shutil", "subprocess", "tarfile", "tempfile", "traceback", "zipfile"}
    assert slow.isdisjoint(loaded)


def test_commands_do_not_see_each_other(cache):
    for _ in range(2):
        assert gasang(cache, "--", "sh", "-c", "ls /tmp/mark; touch /tmp/mark").stdout == b""


def test_another_machine_is_another_snapshot(cache):
    before = len(snapshots(cache))
    assert gasang(cache, "-c", "2", "--", "nproc").stdout == b"2\n"
    assert len(snapshots(cache)) == before + 1
    assert gasang(cache, "-c", "2", "--", "nproc").stdout == b"2\n"


def test_a_cold_one_boots(cache):
    before = snapshots(cache)
    assert gasang(cache, "--cold", "--", "uname").stdout == b"Linux\n"
    assert snapshots(cache) == before


@pytest.mark.parametrize("length", [0, 3000, 100_000])
def test_a_damaged_snapshot_is_made_again(cache, length):
    for made in snapshots(cache):
        made.unlink()
    gasang(cache, "--", "true")
    (made,) = snapshots(cache)
    os.truncate(made, length)
    assert gasang(cache, "--", "uname").stdout == b"Linux\n"
    assert made.stat().st_size > 128 << 20


def test_a_cache_that_cannot_be_written_is_no_failure(cache):
    shutil.rmtree(cache / "warm")
    (cache / "warm").write_text("in the way")
    result = gasang(cache, "--", "uname")
    assert (result.returncode, result.stdout) == (0, b"Linux\n")
    assert b"no snapshot" in result.stderr
    (cache / "warm").unlink()


def test_old_snapshots_go(cache):
    (cache / "warm").mkdir()
    for number in range(8):
        (cache / "warm" / f"{number}.snap").write_text("old")
    gasang(cache, "--", "true")
    assert len(snapshots(cache)) == 4


def test_a_timeout_counts_in_a_warm_guest(cache):
    gasang(cache, "--", "true")
    result = gasang(cache, "--timeout", "3", "--", "sleep", "100")
    assert result.returncode == 124
