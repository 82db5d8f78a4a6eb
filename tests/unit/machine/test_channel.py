"""Serial ports from the host's side."""

import re
import threading

import pytest

from gasang.errors import GuestTimeout, MachineDied
from gasang.machine import Channel


class Port:
    """The guest's side: what it was given, and how much it takes at a time."""

    def __init__(self, room=1 << 16):
        self.room = room
        self.received = bytearray()
        self.changed = threading.Condition()

    def offer(self, data):
        with self.changed:
            taken = data[: self.room]
            self.received += taken
            self.changed.notify_all()
            return len(taken)

    def wait_for(self, count):
        with self.changed:
            return self.changed.wait_for(lambda: len(self.received) >= count, timeout=10)


@pytest.fixture
def port():
    return Port()


@pytest.fixture
def channel(port):
    return Channel("ttyS0", port.offer)


def later(function, *arguments):
    thread = threading.Timer(0.01, function, arguments)
    thread.start()
    return thread


def test_read_returns_what_there_is(channel):
    channel.deliver(b"hello")
    assert channel.read(limit=2) == b"he"
    assert channel.read() == b"llo"


def test_read_waits_for_output(channel):
    later(channel.deliver, b"hello")
    assert channel.read(timeout=10) == b"hello"


def test_read_times_out(channel):
    with pytest.raises(GuestTimeout, match=r"nothing came from ttyS0 for 0\.01 seconds"):
        channel.read(timeout=0.01)


def test_read_gives_the_rest_and_then_the_end(channel):
    channel.deliver(b"last words")
    channel.close("power-off", "")
    assert channel.read() == b"last words"
    assert channel.read() == b""


def test_a_reader_that_waits_sees_the_end(channel):
    later(channel.close, "power-off", "")
    assert channel.read(timeout=10) == b""


def test_expect_takes_text_literally(channel):
    channel.deliver(b"a.b $ rest")
    match = channel.expect(".b $ ")
    assert (match[0], match.string[: match.start()]) == (".b $ ", "a")
    assert channel.read() == b"rest"


def test_expect_waits_across_pieces(channel):
    channel.deliver(b"log")
    later(channel.deliver, b"in: ")
    assert channel.expect("login: ", timeout=10)


def test_expect_takes_expressions(channel):
    channel.deliver(b"Linux version 6.1.0 (debian)\n")
    assert channel.expect(re.compile(r"version (\S+)"))[1] == "6.1.0"


def test_expect_keeps_bytes_that_are_no_text(channel):
    channel.deliver("é".encode() + b"\xff\xfe> \xe2\x82 rest")
    channel.expect("> ")
    assert channel.read() == b"\xe2\x82 rest"


def test_expect_times_out_with_what_it_saw(channel):
    channel.deliver(b"something else")
    with pytest.raises(GuestTimeout, match="did not show 'login:'") as caught:
        channel.expect(re.compile("login:"), timeout=0.01)
    assert caught.value.stdout == b"something else"


def test_expect_ends_with_the_machine(channel):
    later(channel.close, "triple fault", "the end")
    with pytest.raises(MachineDied) as caught:
        channel.expect("never", timeout=10)
    assert (caught.value.reason, caught.value.console_tail) == ("triple fault", "the end")


def test_expect_finds_what_came_before_the_end(channel):
    channel.deliver(b"Power down")
    channel.close("power-off", "")
    assert channel.expect("Power down")


def test_write_sends_bytes_and_text(channel, port):
    channel.write(b"ab")
    channel.write("é")
    assert port.received == b"ab\xc3\xa9"


def test_write_does_not_wait_for_a_guest_that_reads_slowly(channel, port):
    port.room = 3
    channel.write(b"0123456789")
    channel.write(b"abc")
    assert port.wait_for(13)
    assert port.received == b"0123456789abc"


def test_write_to_an_ended_machine_fails(channel):
    channel.close("stopped", "")
    with pytest.raises(MachineDied, match="the machine ended: stopped"):
        channel.write(b"x")


def test_a_listener_gets_what_is_unread_and_what_comes(channel):
    heard = []
    channel.deliver(b"before")
    channel.listen(heard.append)
    channel.deliver(b"after")
    assert heard == [b"before", b"after"]
    assert channel.log == b"beforeafter"


def test_a_listener_that_waits_for_a_writer_does_not_stop_it(channel, port):
    heard, written = threading.Event(), threading.Event()

    def answer(data):
        heard.set()
        assert written.wait(10), "the writer was stopped"
        channel.write(b"re: " + data)

    channel.listen(answer)
    speaker = later(channel.deliver, b"hello")
    assert heard.wait(10)
    channel.write(b"first, ")
    written.set()
    speaker.join(timeout=10)
    assert port.received == b"first, re: hello"


def test_what_nobody_reads_is_bounded(channel):
    for _ in range(20):
        channel.deliver(bytes(1 << 20))
    channel.deliver(b"end")
    assert len(channel.log) == 4 << 20
    assert len(channel.read(limit=1 << 30)) == 16 << 20


def test_the_tail_is_the_last_lines(channel):
    channel.deliver(b"".join(b"line %d\r\n" % number for number in range(100)))
    assert channel.tail(2) == "line 98\nline 99"


def test_repr_tells_its_state(channel):
    channel.deliver(b"abc")
    assert repr(channel) == "<Channel ttyS0, 3 bytes to read, open>"
    channel.close("stopped", "")
    assert repr(channel) == "<Channel ttyS0, 3 bytes to read, ended: stopped>"
