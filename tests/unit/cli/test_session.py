"""How a session ends: the exit code, and what is said on stderr."""

import os
import threading

import pytest

from gasang.cli.session import Session
from gasang.config import MachineConfig
from gasang.errors import GuestTimeout, MachineDied
from gasang.machine import (
    DebugExit,
    GuestPanic,
    HaltedForever,
    PowerOff,
    Reboot,
    Stopped,
    TimedOut,
    TripleFault,
)


class FakeConsole:
    def __init__(self, text=b""):
        self.text = text
        self.written = []

    def read(self, limit=65536, timeout=None):
        text, self.text = self.text, b""
        return text

    def write(self, data):
        self.written.append(data)

    def tail(self):
        return self.text.decode()


class FakeAgent:
    def __init__(self, machine, command):
        self.machine = machine
        self.command = command
        self.shell = None
        self.ready = False

    def dismiss(self):
        pass

    def wait_ready(self, timeout=None):
        if self.command is None:
            raise GuestTimeout("no agent")

    def stream(self, command, *, stdin, stdout, stderr, env, cwd):
        return self.command(stdout, stderr)


class FakeMachine:
    """Ends with `outcome`: at once, or when it is stopped if there is none."""

    def __init__(self, outcome=None, *, console=b"", command=None):
        self.config = MachineConfig()
        self.console = FakeConsole(console)
        self.agent = FakeAgent(self, command)
        self.outcome = outcome
        self.ended = threading.Event()
        if outcome is not None:
            self.ended.set()

    def wait(self):
        assert self.ended.wait(timeout=10)
        return self.outcome

    def stop(self):
        self.outcome = self.outcome or Stopped()
        self.ended.set()


def died(stdout, stderr):
    raise MachineDied("by itself")


def test_command_has_its_streams_and_its_code(capfdbinary):
    def command(stdout, stderr):
        stdout(b"out\xff")
        stderr(b"err\xfe")
        return 7

    machine = FakeMachine(command=command)
    assert Session(machine).run_command(["x"]) == 7
    assert capfdbinary.readouterr() == (b"out\xff", b"err\xfe")
    assert machine.ended.is_set()


def test_command_without_reader_is_a_broken_pipe():
    def command(stdout, stderr):
        raise BrokenPipeError

    assert Session(FakeMachine(command=command)).run_command(["x"]) == 141


def test_error_in_a_command_is_raised():
    def command(stdout, stderr):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Session(FakeMachine(command=command)).run_command(["x"])


@pytest.mark.parametrize("outcome", [GuestPanic("bad"), TripleFault(), Reboot(), HaltedForever()])
def test_machine_that_fails_its_command_says_why(outcome, capfd):
    machine = FakeMachine(outcome, console=b"last words", command=died)
    assert Session(machine).run_command(["x"]) == 255
    error = capfd.readouterr().err
    assert error.splitlines() == [f"gasang: error: the machine ended: {outcome.reason}", "last words"]


def test_timeout_is_one_line(capfd):
    machine = FakeMachine(TimedOut(5.0), console=b"last words", command=died)
    assert Session(machine).run_command(["x"]) == 124
    assert capfd.readouterr().err == "gasang: error: the machine ended: timeout after 5 s\n"


@pytest.mark.parametrize(("outcome", "code"), [(PowerOff(), 0), (DebugExit(7), 7), (Stopped(), 0)])
def test_end_that_was_wanted_needs_no_words(outcome, code, capfd):
    assert Session(FakeMachine(outcome, command=died)).run_command(["x"]) == code
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def no_input(monkeypatch):
    monkeypatch.setattr("gasang.cli.session.may_read", lambda number: False)


def test_console_in_a_pipe_is_stdout_and_nothing_else(no_input, capfd):
    machine = FakeMachine(Reboot(), console=b"console\r\n")
    assert Session(machine).in_pipe(has_shell=False) == 0
    assert capfd.readouterr() == ("console\r\n", "")


def test_exit_code_of_the_shell_is_ours(no_input):
    machine = FakeMachine(PowerOff(), command=died)
    machine.agent.shell = 5
    assert Session(machine).in_pipe(has_shell=True) == 5


def test_reset_before_the_guest_is_up_is_an_error(no_input, capfd):
    assert Session(FakeMachine(Reboot())).in_pipe(has_shell=True) == 255
    assert "before it was up" in capfd.readouterr().err


def test_reset_of_a_guest_that_is_up_is_its_end(no_input, capfd):
    machine = FakeMachine(Reboot())
    machine.agent.ready = True
    assert Session(machine).in_pipe(has_shell=True) == 0
    assert capfd.readouterr() == ("", "")


def test_panic_on_the_console_is_not_repeated(no_input, capfd):
    machine = FakeMachine(GuestPanic("bad"), console=b"Kernel panic\r\n")
    assert Session(machine).in_pipe(has_shell=True) == 255
    assert capfd.readouterr() == ("Kernel panic\r\n", "gasang: error: the machine ended: kernel panic: bad\n")


@pytest.mark.parametrize(("has_shell", "written"), [(True, []), (False, [b"typed"])])
def test_shell_gets_no_input_before_it_takes_some(has_shell, written, monkeypatch):
    read, write = os.pipe()
    os.write(write, b"typed")
    os.close(write)
    monkeypatch.setattr("gasang.cli.session._STDIN", read)
    machine = FakeMachine(PowerOff())  # whose agent never reports
    monkeypatch.setattr("gasang.cli.session.in_background", run_quietly)
    Session(machine).in_pipe(has_shell=has_shell)
    os.close(read)
    assert machine.console.written == written


def run_quietly(action):
    try:
        action()
    except GuestTimeout:
        return
