"""Machines seen from other processes."""

import os
import socket
import stat
import subprocess

import pytest

from gasang.errors import ConfigError
from gasang.profile import Phase, Place, Profile
from gasang.profile.live import Publisher, Reading, Watched, directory, make_directory, running

FOUND = Profile(
    processors=2,
    seconds=3.0,
    phases=(Phase("code", 10, 2.0), Phase("idle", 1, 1.0)),
    symbols=(Place("main", 5, 1, 0), Place("work", 1, 0, 0)),
    blocks=(),
    forms=(),
    instructions=(),
    executed_symbols=(),
    executed_blocks=(),
    exits=(),
    lost=0,
    counters={"instructions": 1000},
)
READING = Reading(
    os.getpid(),
    "test",
    2,
    32 << 20,
    {"code": 2 * 10**9, "idle": 10**9},
    {"main": 6, "work": 1},
    FOUND.counters,
)


class Machine:
    """Notes when it is profiled."""

    def __init__(self):
        self.calls = []

    def profile(self):
        return FOUND

    def start_profile(self):
        self.calls.append("start")

    def stop_profile(self):
        self.calls.append("stop")


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    """The directory of the sockets."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "gasang"


@pytest.fixture
def machine():
    return Machine()


def publisher(machine, **changes):
    return Publisher(machine, "test", 2, 32 << 20, **{"profiled": False, **changes})


def test_who_looks_sees_the_machine(machine, place):
    with publisher(machine):
        [watched] = running()
        assert (watched.pid, watched.read(), watched.read()) == (os.getpid(), READING, READING)
        watched.close()
    assert list(place.iterdir()) == []
    assert running() == []


def test_a_machine_is_profiled_while_somebody_looks(machine):
    with publisher(machine):
        assert machine.calls == []
        first, second = running()[0], running()[0]
        assert first.read() == second.read() == READING
        assert machine.calls == ["start"]
        for watched in (first, second):
            watched._socket.shutdown(socket.SHUT_WR)
            assert watched._stream.read() == "", "answered to the end, and then closed"
        assert machine.calls == ["start", "stop"]


def test_a_machine_that_is_profiled_anyway_stays_so(machine):
    with publisher(machine, profiled=True):
        [watched] = running()
        assert watched.read() == READING
        watched._socket.shutdown(socket.SHUT_WR)
        assert watched._stream.read() == ""
    assert machine.calls == []


def test_a_machine_that_is_not_profiled_any_more_is_gone(machine):
    def ended():
        raise ConfigError("this machine is not profiled")

    machine.profile = ended
    with publisher(machine):
        assert running()[0].read() is None


def test_what_a_killed_machine_left_goes(machine, place):
    make_directory()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(place / "4711.socket"))
    (place / "other").write_text("of nobody we know")
    with publisher(machine):
        assert [watched.pid for watched in running()] == [os.getpid()]
    assert [path.name for path in place.iterdir()] == ["other"]


def test_the_next_machine_removes_what_killed_ones_left(machine, place):
    process = subprocess.Popen(["true"])
    process.wait()
    place.mkdir(mode=0o700)
    gone, alive, other = (place / f"{name}.socket" for name in (process.pid, os.getppid(), "name"))
    for each in (gone, alive, other):
        each.touch()
    with Publisher(machine, "test", 2, 32 << 20, profiled=False):
        assert [each.exists() for each in (gone, alive, other)] == [False, True, True]


def test_a_socket_of_a_process_that_had_our_number_is_replaced(machine, place):
    make_directory()
    (place / f"{os.getpid()}.socket").write_text("")
    with publisher(machine):
        assert running()[0].read() == READING


def test_nobody_else_may_look(machine, place):
    with publisher(machine):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        [path] = place.iterdir()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_a_directory_that_others_may_enter_is_refused(machine, place, mode):
    place.mkdir()
    place.chmod(mode)
    with pytest.raises(ConfigError, match="not a directory of ours alone"):
        publisher(machine)


def test_without_a_runtime_directory_it_is_in_tmp(monkeypatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert str(directory()) == f"/tmp/gasang-{os.getuid()}"


def test_nonsense_for_an_answer_is_no_reading(place):
    make_directory()
    with socket.socket(socket.AF_UNIX) as liar:
        liar.bind(str(place / "7.socket"))
        liar.listen()
        watched = Watched(place / "7.socket")
        connection, _ = liar.accept()
        connection.sendall(b'{"pid": 7}\n')
        assert watched.read() is None
        connection.close()
        watched.close()
