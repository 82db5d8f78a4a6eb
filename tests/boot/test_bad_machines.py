"""What people get wrong with machines, disks, snapshots, folders and networks: one clear line each, exit code
125, nothing lost, and nothing left: no process, no file, no change of what was there."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from container_images import ImageMaker, tar

from gasang.cli import main
from gasang.guest.protocol import Kind
from gasang.snapshot import Snapshot, write

HEADER = ">IIQIIQIIQQIIQQQQII"
"""qcow2's, to its length: docs/interop/qcow2.rst of QEMU."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a machine's files, good and bad, and a short path for sockets."""
    place = tmp_path_factory.mktemp("bad")
    (place / "run").mkdir()
    make_disks(place)
    make_images(place)
    return place


def make_disks(place):
    assert main(["image", "create", str(place / "good.qcow2"), "64M"]) == 0
    good = (place / "good.qcow2").read_bytes()
    fields = list(struct.unpack_from(HEADER, good))

    def spoilt(name, index, value):
        changed = fields.copy()
        changed[index] = value
        (place / name).write_bytes(struct.pack(HEADER, *changed) + good[struct.calcsize(HEADER) :])

    spoilt("newer.qcow2", 1, 9)
    spoilt("clusters.qcow2", 4, 63)
    spoilt("feature.qcow2", 13, 1 << 60)
    spoilt("table.qcow2", 8, 1 << 50)
    (place / "cut.qcow2").write_bytes(good[:70])
    (place / "held.img").write_bytes(bytes(1 << 20))
    (place / "base.img").write_bytes(bytes(1 << 20))
    words = ["image", "create", "--backing", str(place / "base.img"), str(place / "orphan.qcow2")]
    assert main(words) == 0
    (place / "base.img").unlink()


def make_images(place):
    (place / "junk").write_bytes(b"junk" * 1000)
    (place / "empty").touch()
    (place / "arm.tar").write_bytes(ImageMaker(tar(("bin/sh", b"")), architecture="arm64").pack())
    (place / "out.tar").write_bytes(ImageMaker(tar(("../../out", b""))).pack())
    (place / "folder").mkdir()


@pytest.fixture(scope="module")
def run(gasang, place):
    """Runs `gasang` in that directory, and stops what is left in the end."""

    def run(*arguments, **options):
        return gasang(*arguments, cwd=place, env={"XDG_RUNTIME_DIR": str(place / "run")}, **options)

    yield run
    for each in json.loads(run("ps", "--json").stdout):
        run("stop", each["name"])


@pytest.fixture(scope="module")
def box(run, place):
    """A machine with a disk and a folder, and a snapshot of another, whole and spoilt in several ways."""
    assert run("run", "-q", "-d", "--accel", "bt", "--name", "saved").returncode == 0
    assert run("snapshot", "saved", "good.snap").returncode == 0
    assert run("stop", "saved").returncode == 0
    spoil_snapshots(place)
    done = run("run", "-q", "-d", "--accel", "bt", "--name", "box", "--drive", "held.img", "--net", "user")
    assert done.returncode == 0, done.stderr
    return "box"


def spoil_snapshots(place):
    good = (place / "good.snap").read_bytes()
    (place / "cut.snap").write_bytes(good[: len(good) // 2])
    (place / "flipped.snap").write_bytes(good[:5000] + bytes([good[5000] ^ 1]) + good[5001:])
    (place / "newer.snap").write_bytes(good[:8] + struct.pack("<I", 999) + good[12:])
    with Snapshot.open(place / "good.snap") as snapshot:
        state = json.loads(json.dumps(snapshot.state))
        state["config"]["cpu"] = "z80"
        write(place / "foreign.snap", state, snapshot.ram_length, lambda *_: snapshot.ram_digest)


def processes_of(place):
    """The processes that know of the directory."""
    found = set()
    for each in Path("/proc").glob("[0-9]*"):
        try:
            if str(place).encode() in (each / "environ").read_bytes():
                found.add(each.name)
        except OSError:
            continue
    return found


def files_in(place):
    """Every file as it is, but for the machine's own log and disk."""
    found = {}
    for path in place.rglob("*"):
        if path.is_file() and path.suffix != ".log" and path.name != "held.img":
            status = path.stat()
            found[str(path.relative_to(place))] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


COMMAND = ("--", "true")
MISTAKES = {
    "drive is missing": (("run", "--drive", "none.img", *COMMAND), "none.img: No such file or directory"),
    "drive is a directory": (("run", "--drive", "folder", *COMMAND), "folder"),
    "qcow2 of a newer version": (("run", "--drive", "newer.qcow2", *COMMAND), "version 9"),
    "qcow2 with absurd clusters": (("run", "--drive", "clusters.qcow2", *COMMAND), "cluster"),
    "qcow2 with an unknown feature": (("run", "--drive", "feature.qcow2", *COMMAND), "feature"),
    "qcow2 with a table outside": (("run", "--drive", "table.qcow2", *COMMAND), "table.qcow2"),
    "qcow2 that is cut": (("run", "--drive", "file=cut.qcow2,format=qcow2", *COMMAND), "cut.qcow2"),
    "qcow2 without its backing file": (("run", "--drive", "orphan.qcow2", *COMMAND), "base.img"),
    "drive in use": (("run", "--drive", "held.img", *COMMAND), "held.img"),
    "snapshot is cut": (("restore", "cut.snap", *COMMAND), "cut.snap"),
    "snapshot is damaged": (("restore", "flipped.snap", *COMMAND), "damaged"),
    "snapshot of a newer format": (("restore", "newer.snap", *COMMAND), "999"),
    "snapshot of a foreign processor": (("restore", "foreign.snap", *COMMAND), "z80"),
    "snapshot is something else": (("restore", "junk", *COMMAND), "junk"),
    "snapshot is missing": (("restore", "none.snap", *COMMAND), "none.snap: No such file"),
    "snapshot to nowhere": (("snapshot", "box", "none/x.snap"), "No such file or directory"),
    "port in use": (("run", "--net", "user", "-p", "PORT:80", *COMMAND), "in use"),
    "port out of range": (("run", "--net", "user", "-p", "99999:80", *COMMAND), "from 1 to 65535"),
    "rule that is none": (("run", "--net", "user,allow=10.0.0.0/99", *COMMAND), "10.0.0.0/99"),
    "folder is missing": (("run", "-v", "none:/mnt", *COMMAND), "none"),
    "folder is a file": (("run", "-v", "junk:/mnt", *COMMAND), "junk"),
    "folder leads out": (("run", "-v", "folder:/mnt/../etc", *COMMAND), "not an absolute path"),
    "root for another machine": (("run", "--rootfs", "arm.tar", *COMMAND), "linux/arm64"),
    "root leads out": (("run", "--rootfs", "out.tar", *COMMAND), "leads out of the root"),
    "root is something else": (("run", "--rootfs", "junk", *COMMAND), "it is no archive of one"),
    "name leads out": (("run", "-d", "--name", "../x"), "is no name for a machine"),
    "name is taken": (("run", "-d", "--name", "box"), "runs already"),
    "no such machine": (("exec", "nobody", *COMMAND), "no machine is called nobody"),
    "copy out of what is not there": (("cp", "box:/none", "here"), "/none in the guest: No such file"),
    "copy in of what is not there": (("cp", "none", "box:/tmp"), "none"),
    "copy to nowhere": (("cp", "box:/etc/passwd", "none/x/y"), "none"),
    "clone of a machine that writes a disk": (("fork", "box"), "writ"),
    "clone's name leads out": (("fork", "box", "../y"), "is no name for a machine"),
    "image that is there": (("image", "create", "good.qcow2", "1G"), "good.qcow2: File exists"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_costs_nothing(run, box, place, mistake):
    words, said = MISTAKES[mistake]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        words = [word.replace("PORT", str(taken.getsockname()[1])) for word in words]
        processes, files = processes_of(place), files_in(place)
        done = run(*words)
    assert done.returncode == 125
    assert done.stdout == b""
    (line,) = [each for each in done.stderr.decode().splitlines() if " error: " in each]
    assert line.startswith("gasang: error: ")
    assert said in line
    assert b"Traceback" not in done.stderr
    assert processes_of(place) == processes
    assert files_in(place) == files
    assert run("exec", box, "--", "echo", "up").stdout == b"up\n"


def test_a_snapshot_that_has_no_room_leaves_what_was_there(run, place, box):
    before = files_in(place)
    script = """
import resource
from gasang import Machine
with Machine.restore("good.snap") as machine:
    machine.run("true")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    machine.snapshot("cut.snap")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=place, capture_output=True, check=False)
    assert b"SnapshotError: snapshot cut.snap: File too large" in done.stderr
    assert files_in(place) == before


def test_a_guest_whose_agent_is_dead_is_told(run, box, place):
    assert run("run", "-q", "-d", "--accel", "bt", "--name", "silent").returncode == 0
    run("exec", "silent", "--", "killall", "gasang-agent")
    done = run("exec", "silent", "--", "true")
    assert done.returncode == 125
    assert b"agent does not answer" in done.stderr
    assert run("stop", "silent").returncode == 0


def test_a_machine_that_is_killed_ends_its_commands(run, box, place, gasang):
    assert run("run", "-q", "-d", "--accel", "bt", "--name", "victim").returncode == 0
    (about,) = [each for each in json.loads(run("ps", "--json").stdout) if each["name"] == "victim"]
    command = [sys.executable, "-m", "gasang", "exec", "victim", "--", "sh", "-c", "echo up; sleep 1000"]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(place / "run")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout.readline() == b"up\n"
        os.kill(about["pid"], signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 125
    assert len(errors.splitlines()) == 1
    assert b"Traceback" not in errors
    assert [each["name"] for each in json.loads(run("ps", "--json").stdout)] == [box]
    assert not list((place / "run").rglob("victim*"))


def test_a_gasang_run_that_is_killed_leaves_no_process(place, box):
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(place / "run")}
    before = processes_of(place)
    command = [
        sys.executable,
        "-m",
        "gasang",
        "run",
        "-q",
        "-v",
        "folder:/mnt",
        "--",
        "sh",
        "-c",
        "echo up; sleep 999",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=place, env=environment) as process:
        assert process.stdout.readline() == b"up\n"
        process.kill()
    deadline = time.monotonic() + 30
    while processes_of(place) != before:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("request_line", [b"x" * (1 << 20), b"[]\n", b"\n", b'{"do": 7}\n', b"\xff\n"])
def test_nonsense_at_a_machines_socket_is_refused(run, box, place, request_line):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(place / "run/gasang/box.control"))
        try:
            connection.sendall(request_line)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(1 << 16)
        except (BrokenPipeError, ConnectionResetError):
            answer = b""
    assert not answer or b"error" in answer
    assert run("exec", box, "--", "echo", "up").stdout == b"up\n"


def test_a_frame_that_is_too_large_ends_its_connection_alone(run, box, place):
    script = """
import os, struct, sys
from gasang.cli.background import connect
with connect("box", "agent") as agent:
    agent.settimeout(30)
    agent.sendall(struct.pack("<BI", int(sys.argv[1]), 0xFFFFFFFF) + bytes(1000))
    print(len(agent.recv(1000)))
"""
    for kind in (Kind.PING, Kind.RUN, Kind.WRITE, 0xEE):
        done = subprocess.run(
            [sys.executable, "-c", script, str(int(kind))],
            env={**os.environ, "XDG_RUNTIME_DIR": str(place / "run")},
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
    assert run("exec", box, "--", "echo", "up").stdout == b"up\n"
