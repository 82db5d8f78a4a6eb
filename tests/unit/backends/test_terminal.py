"""The terminal: which keys are ours, and that its mode comes back."""

import os
import select
import signal
import subprocess
import sys
import termios

import pytest

from gasang.backends.terminal import EscapeKeys, Key, raw_mode


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        (b"ls\r", [b"ls\r"]),
        (b"\x01x", [Key.QUIT]),
        (b"ab\x01hcd", [b"ab", Key.HELP, b"cd"]),
        (b"\x01a", [b"\x01"]),
        (b"\x01\x01", [b"\x01"]),
        (b"\x01\x01x", [b"\x01x"]),
        (b"\x01e", [b"\x01e"]),
        (b"\x03\x1a\x1c", [b"\x03\x1a\x1c"]),
        (b"", []),
    ],
)
def test_keys_are_split(typed, parts):
    assert list(EscapeKeys().split(typed)) == parts


def test_escape_may_come_alone():
    keys = EscapeKeys()
    assert list(keys.split(b"a\x01")) == [b"a"]
    assert list(keys.split(b"x")) == [Key.QUIT]


@pytest.fixture
def terminal():
    master, slave = os.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


def local_modes(descriptor):
    return termios.tcgetattr(descriptor)[3]


def test_raw_mode_passes_every_key_and_ends(terminal):
    master, slave = terminal
    before = termios.tcgetattr(slave)
    with raw_mode(slave):
        assert not local_modes(slave) & (termios.ECHO | termios.ICANON | termios.ISIG)
        os.write(master, b"\x03\x04")
        assert os.read(slave, 2) == b"\x03\x04"
    assert termios.tcgetattr(slave) == before


def test_mode_comes_back_after_an_exception(terminal):
    _, slave = terminal
    before = termios.tcgetattr(slave)

    def fail():
        with raw_mode(slave):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert termios.tcgetattr(slave) == before


def test_mode_comes_back_after_sigkill(terminal):
    master, slave = terminal
    before = termios.tcgetattr(slave)
    code = """
import os, time
from gasang.backends.terminal import raw_mode
with raw_mode(0):
    os.write(1, b"raw")
    time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    )
    seen = b""
    while b"raw" not in seen:
        assert select.select([master], [], [], 30)[0]
        seen += os.read(master, 100)
    assert not local_modes(slave) & termios.ECHO
    process.send_signal(signal.SIGKILL)
    process.wait()
    # The guardian mends the terminal soon after: it holds the terminal until then.
    for _ in range(1000):
        if termios.tcgetattr(slave) == before:
            return
        select.select([], [], [], 0.01)
    assert termios.tcgetattr(slave) == before


def test_raw_mode_works_without_a_shell(terminal, monkeypatch):
    _, slave = terminal
    before = termios.tcgetattr(slave)
    monkeypatch.setenv("PATH", "/nowhere")
    with raw_mode(slave):
        assert not local_modes(slave) & termios.ECHO
    assert termios.tcgetattr(slave) == before
