"""Connecting a console with streams."""

import os
import queue
import threading

import pytest

from gasang.backends.console import END_OF_INPUT, in_background, pass_input, pass_keys, show_output
from gasang.backends.streams import Descriptor
from gasang.errors import GuestTimeout, MachineDied


class FakeConsole:
    """Gives what is put into `output` (an exception is raised) and notes what is written."""

    def __init__(self, *output):
        self.output = list(output)
        self.written = []

    def read(self, limit=65536, timeout=None):
        item = self.output.pop(0)
        if isinstance(item, Exception):
            raise item
        return item

    def write(self, data):
        self.written.append(data)


class Typed:
    """A terminal on which `parts` are typed."""

    def __init__(self, *parts):
        self.parts = [*parts, b""]

    def read(self, size):
        return self.parts.pop(0)


def test_output_is_shown_until_the_machine_ends():
    shown = []
    console = FakeConsole(b"a", GuestTimeout("quiet"), b"b", b"")
    show_output(console, shown.append, threading.Event())
    assert shown == [b"a", b"b"]
    assert console.written == []


def test_end_of_input_is_told_while_the_console_is_quiet():
    ended = threading.Event()
    ended.set()
    console = FakeConsole(b"a", GuestTimeout("quiet"), GuestTimeout("quiet"), b"b", b"")
    show_output(console, lambda _: None, ended)
    assert console.written == [END_OF_INPUT] * 2


def test_output_that_cannot_be_shown_is_told():
    def show(data):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        show_output(FakeConsole(b"a"), show, threading.Event())


def test_input_is_passed_to_its_end():
    read, write = os.pipe()
    os.write(write, b"ls\n")
    os.close(write)
    console = FakeConsole()
    pass_input(console, Descriptor(read))
    os.close(read)
    assert console.written == [b"ls\n"]


def test_keys_go_to_the_guest_and_to_us():
    console, shown, quits = FakeConsole(), [], []
    pass_keys(
        console, Typed(b"l", b"s\x01h\r", b"\x01", b"x", b"never"), lambda: quits.append(1), shown.append
    )
    assert console.written == [b"l", b"s", b"\r"]
    assert quits == [1]
    assert b"Ctrl-A x" in shown[0]
    assert b"\n" not in shown[0].replace(b"\r\n", b"")


@pytest.mark.parametrize("error", [OSError(), MachineDied("power-off")])
def test_background_ends_quietly_with_its_stream_or_machine(error, monkeypatch):
    done, complaints = queue.Queue(), []
    monkeypatch.setattr(threading, "excepthook", complaints.append)

    def action():
        done.put(threading.current_thread())
        raise error

    in_background(action)
    done.get(timeout=10).join(timeout=10)
    assert complaints == []
