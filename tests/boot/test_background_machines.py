"""Machines in the background, by the command line."""

import json
import os
import signal
import stat
import subprocess
import sys
import time

import pexpect
import pytest


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """Where holders have what is theirs: a short path, for sockets."""
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def machines(gasang, state):
    """Runs `gasang` there, and stops what is left in the end."""

    def run(*arguments, **options):
        return gasang(*arguments, env={"XDG_RUNTIME_DIR": str(state)}, **options)

    yield run
    for each in json.loads(run("ps", "--json").stdout):
        run("stop", each["name"])


@pytest.fixture(scope="module")
def box(machines):
    """The name of a machine."""
    done = machines("run", "-q", "-d", "--accel", "bt", "--name", "box")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"box\n", b"")
    return "box"


def test_its_state_is_nobody_elses(box, state):
    place = state / "gasang"
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert stat.S_IMODE((place / f"{box}.control").stat().st_mode) == 0o600


def test_a_command_has_our_streams_and_gives_its_code(machines, box):
    script = "cat; echo err >&2; pwd; echo $A; exit 7"
    done = machines("exec", "-e", "A=b", "-w", "/tmp", box, "--", "sh", "-c", script, input=b"in\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"in\n/tmp\nb\n", b"err\n")
    assert machines("exec", box, "--", "no-such-program").returncode == 127
    assert machines("exec", box, "--", "sh", "-c", "kill -9 $$").returncode == 128 + 9


def test_a_command_ends_with_gasang_exec(machines, box, state):
    command = [sys.executable, "-m", "gasang", "exec", box, "--", "sleep", "4321"]
    process = subprocess.Popen(command, env={**os.environ, "XDG_RUNTIME_DIR": str(state)})
    while b"sleep 4321" not in machines("exec", box, "--", "ps").stdout:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 128 + signal.SIGINT
    assert b"sleep 4321" not in machines("exec", box, "--", "ps").stdout


def test_a_terminal_is_ours(box, state):
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(state)}
    words = ["-m", "gasang", "exec", "-t", box, "--", "sh"]
    terminal = pexpect.spawn(sys.executable, words, env=environment, dimensions=(30, 90), timeout=20)
    terminal.sendline("stty size")
    terminal.expect("30 90")
    terminal.setwinsize(40, 100)
    terminal.sendline("sleep 0.2; stty size")
    terminal.expect("40 100")
    terminal.sendline("exit 9")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 9


def test_files_go_in_and_out(machines, box, tmp_path):
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/file").write_bytes(b"\0\1")
    assert machines("cp", tmp_path / "tree", f"{box}:/root").returncode == 0
    assert machines("cp", f"{box}:/root/tree/sub", tmp_path).returncode == 0
    assert (tmp_path / "sub/file").read_bytes() == b"\0\1"


def test_a_tree_from_a_guest_does_not_leave_its_place(machines, box, tmp_path):
    """A link in the tree leads out of it, and so does one that is here already."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "place").mkdir()
    (tmp_path / "place/tree").mkdir()
    (tmp_path / "place/tree/d").symlink_to(outside)
    machines("exec", box, "--", "sh", "-c", "mkdir -p /tree/d && echo evil >/tree/d/file")
    done = machines("cp", f"{box}:/tree", tmp_path / "place")
    assert done.returncode == 125
    assert list(outside.iterdir()) == []


def test_the_console_is_there(machines, box, state):
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(state)}
    words = ["-m", "gasang", "console", box]
    terminal = pexpect.spawn(sys.executable, words, env=environment, timeout=20)
    terminal.expect("Ctrl-A x leaves")
    terminal.send("echo $((6*7))ff\r")
    terminal.expect("42ff")
    terminal.send("\x01x")
    terminal.expect(pexpect.EOF)
    assert machines("exec", box, "--", "true").returncode == 0


def test_machines_are_listed(machines, box):
    [found] = json.loads(machines("ps", "--json").stdout)
    assert (found["name"], found["cpus"], found["memory"], found["accelerator"]) == (box, 1, 512 << 20, "bt")
    assert machines("ps").stdout.splitlines()[1].split()[:2] == [box.encode(), str(found["pid"]).encode()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "-d", "--name", "box"], "a machine called box runs already"),
        (["run", "-d", "--name", "../x"], "'../x' is no name for a machine"),
        (["run", "-d", "--", "true"], "leave out a command"),
        (["run", "-d", "--deterministic"], "leave out --deterministic"),
        (["exec", "nobody", "--", "true"], "no machine is called nobody"),
        (["exec", "box"], "no command behind --"),
        (["exec", "-t", "box", "--", "sh"], "-t needs a terminal"),
        (["exec", "-e", "A", "box", "--", "true"], "write NAME=VALUE"),
        (["cp", "a", "b"], "one of the two is in a machine"),
        (["cp", "box:/a", "box:/b"], "one of the two is in a machine"),
        (["cp", "/no/such", "box:/"], "/no/such: No such file or directory"),
        (["cp", "box:/no/such", "/tmp"], "/no/such in the guest: No such file or directory"),
        (["cp", "box:/etc/passwd", "/no/such/place"], "/no/such: No such file or directory"),
        (["console", "nobody"], "no machine is called nobody"),
        (["stop", "nobody"], "no machine is called nobody"),
        (["ps", "box"], "unexpected 'box'"),
    ],
)
def test_a_mistake_is_one_clear_line(machines, box, arguments, message):
    done = machines(*arguments)
    assert (done.returncode, done.stdout) == (125, b"")
    [line] = done.stderr.decode().splitlines()
    assert message in line


def test_what_a_killed_holder_leaves_is_cleaned(machines, state):
    assert machines("run", "-q", "-d", "--accel", "bt", "--name", "doomed").returncode == 0
    found = {each["name"]: each["pid"] for each in json.loads(machines("ps", "--json").stdout)}
    os.kill(found["doomed"], signal.SIGKILL)
    while (state / "gasang/doomed.control").exists():
        assert machines("exec", "doomed", "--", "true").returncode == 125
    assert not list((state / "gasang").glob("doomed*"))
    assert machines("run", "-q", "-d", "--accel", "bt", "--name", "doomed").returncode == 0
    assert machines("stop", "doomed").returncode == 0
    assert not list((state / "gasang").glob("doomed*"))


def test_a_guest_that_powers_off_is_gone(machines, state):
    assert machines("run", "-q", "-d", "--accel", "bt", "--name", "brief").returncode == 0
    done = machines("exec", "brief", "--", "sh", "-c", "poweroff -f; sleep 100")
    assert done.returncode == 125
    assert b"brief" not in machines("ps").stdout


def test_a_machine_is_written_to_a_file_and_goes_on_from_it(machines, box, tmp_path):
    file = tmp_path / "box.snap"
    assert machines("exec", box, "--", "sh", "-c", "echo 5 >/tmp/five").returncode == 0
    done = machines("snapshot", box, str(file))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    done = machines("restore", str(file), "--", "sh", "-c", "cat /tmp/five; exit 6")
    assert (done.returncode, done.stdout, done.stderr) == (6, b"5\n", b"")
    assert machines("restore", "-d", "--name", "two", str(file)).stdout == b"two\n"
    assert machines("exec", "two", "--", "cat", "/tmp/five").stdout == b"5\n"
    assert machines("stop", "two").returncode == 0
    assert machines("restore", "--check", str(file)).returncode == 0
    with file.open("r+b") as written:
        written.seek(20_000_000)
        written.write(b"x")
    done = machines("restore", "--check", str(file))
    assert (done.returncode, done.stderr.count(b"\n")) == (125, 1)
    assert b"damaged" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("restore", "/nowhere/at.all", "--", "true"), b"/nowhere/at.all: No such file"),
        (("restore", "/etc/hostname", "--", "true"), b"no snapshot of gasang"),
        (("restore", "/nowhere/at.all", "-d"), b"No such file"),
        (("restore", "/etc/hostname"), b"a command behind --"),
        (("restore", "/etc/hostname", "--"), b"no command behind --"),
        (("restore", "-d", "/etc/hostname", "--", "true"), b"one of these"),
        (("snapshot", "nobox", "/tmp/never.snap"), b"no machine is called nobox"),
    ],
)
def test_mistakes_with_snapshots_are_one_line(machines, words, said):
    done = machines(*words)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (125, b"", 1)
    assert said in done.stderr


def test_a_place_that_cannot_be_written_is_said(machines, box, tmp_path):
    done = machines("snapshot", box, str(tmp_path / "nowhere" / "a.snap"))
    assert (done.returncode, done.stderr.count(b"\n")) == (125, 1)
    assert b"No such file" in done.stderr
    assert machines("exec", box, "--", "true").returncode == 0, "it goes on"


def test_clones_go_on_where_it_was(machines, box):
    machines("exec", box, "--", "sh", "-c", "echo mine >/tmp/who")
    done = machines("fork", box, "left", "right")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"left\nright\n", b"")
    try:
        assert machines("fork", box).stdout == b"box-1\n"
        names = {
            machines("exec", each, "--", "sh", "-c", "cat /tmp/who; hostname").stdout
            for each in ("left", "right")
        }
        assert len(names) == 2
        assert all(each.startswith(b"mine\n") for each in names)
        refused = machines("fork", box, "other", "left")
        assert (refused.returncode, b"left runs already" in refused.stderr) == (125, True)
    finally:
        for each in ("left", "right", "box-1"):
            machines("stop", each)
    assert [each["name"] for each in json.loads(machines("ps", "--json").stdout)] == [box]
