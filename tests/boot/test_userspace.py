"""What a Debian kernel and busybox do in the default guest."""

import hashlib
import random
import time

import pytest

DATA = random.Random(1).randbytes(1 << 20)


def test_kernel_is_debians(sh):
    assert sh("uname -srm").startswith("Linux 6.")
    assert "Debian" in sh("uname -v")


def test_processor_is_ours(sh):
    model = sh("grep -m1 'model name' /proc/cpuinfo")
    assert "gasang virtual processor" in model


@pytest.mark.parametrize("tool", ["sha256sum", "sha512sum", "md5sum"])
def test_sums_are_those_of_the_host(sh, tool):
    algorithm = tool.removesuffix("sum")
    assert sh(tool, input=DATA).split()[0] == hashlib.new(algorithm, DATA).hexdigest()


def test_dd_copies_files_on_tmpfs(sh):
    script = """
        set -e
        mkdir -p /tmp/disk && mount -t tmpfs -o size=16m none /tmp/disk
        cat > /tmp/disk/source
        dd if=/tmp/disk/source of=/tmp/disk/target bs=4k 2>/dev/null
        cmp /tmp/disk/source /tmp/disk/target
        dd if=/tmp/disk/target bs=1 skip=5 count=1000 2>/dev/null | sha256sum
        umount /tmp/disk && rmdir /tmp/disk
    """
    assert sh(script, input=DATA).split()[0] == hashlib.sha256(DATA[5:1005]).hexdigest()


def test_full_tmpfs_is_an_error_of_the_guest(guest):
    script = """
        mkdir -p /tmp/small && mount -t tmpfs -o size=64k none /tmp/small
        dd if=/dev/zero of=/tmp/small/file bs=4k count=17
        code=$?
        umount /tmp/small
        exit $code
    """
    result = guest.run(script, timeout=60)
    assert result.returncode == 1
    assert b"No space left on device" in result.stderr


def test_compression_round_trips(sh):
    assert sh("gzip -c | gunzip -c | sha256sum", input=DATA).split()[0] == hashlib.sha256(DATA).hexdigest()


def test_pipes_and_sorting(sh):
    assert sh("seq 5000 | sort -rn | head -n 1") == "5000\n"
    assert sh("seq 5000 | awk '{ sum += $1 } END { print sum }'") == "12502500\n"


def test_fork_and_exec_many_times(sh):
    script = "i=0; while [ $i -lt 200 ]; do /bin/true || exit 1; i=$((i + 1)); done; echo $i"
    assert sh(script) == "200\n"


def test_many_processes_at_once(sh):
    script = "for i in $(seq 50); do (sleep 0.2; echo $i) & done | sort -n | md5sum; wait"
    expected = "".join(f"{number}\n" for number in range(1, 51)).encode()
    assert sh(script).split()[0] == hashlib.md5(expected).hexdigest()


def test_signals_end_processes(guest):
    assert guest.run("sleep 100 & kill -TERM $!; wait $!; exit $?", timeout=60).returncode == 128 + 15
    assert guest.run("(kill -SEGV $(exec sh -c 'echo $PPID')); exit $?", timeout=60).returncode == 128 + 11


def test_signals_are_caught(sh):
    script = """
        trap 'echo caught; exit 3' USR1
        (sleep 0.2; kill -USR1 $$) &
        while :; do sleep 0.05; done
    """
    assert sh(f"sh -c '{script.replace(chr(39), chr(34))}'; [ $? = 3 ]") == "caught\n"


def test_ignored_signals_are_ignored(sh):
    assert sh("trap '' TERM; kill -TERM $$; echo alive") == "alive\n"


def test_exit_codes_are_the_commands(guest):
    assert guest.run("exit 42", timeout=60).returncode == 42
    assert guest.run(["nothing-of-that-name"], timeout=60).returncode == 127
    assert guest.run(["/etc/passwd"], timeout=60).returncode == 126


def test_clock_is_the_hosts(sh):
    assert abs(int(sh("date +%s")) - time.time()) < 5


def test_sleep_sleeps(sh):
    before = time.monotonic()
    sh("sleep 1")
    assert time.monotonic() - before > 0.9


def test_devices_that_everyone_needs(sh):
    assert len(sh("dd if=/dev/urandom bs=32 count=1 2>/dev/null | sha256sum")) > 64
    assert (
        sh("dd if=/dev/zero bs=1k count=4 2>/dev/null | md5sum").split()[0]
        == hashlib.md5(bytes(4096)).hexdigest()
    )


def test_kernel_has_no_complaints(sh):
    log = sh("dmesg")
    for word in (
        "BUG:",
        "WARNING:",
        "Oops",
        "Call Trace",
        "unchecked MSR",
        "Spectre V2 : kernel not compiled",
    ):
        assert word not in log, log
