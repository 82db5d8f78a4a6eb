"""Frames, commands and trees, against an agent that a test plays."""

import contextlib
import errno
import os
import re
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

from gasang.errors import GuestAgentError, GuestFileError, GuestTimeout, MachineDied
from gasang.guest import protocol
from gasang.guest.protocol import DIRECTORY, FILE, LINK, WINDOW, ConnectionEnded, Fields, Frames, Kind, text
from gasang.guest.tree import Receiver
from gasang.guest.vsock_agent import VsockAgent

ROOT = Path(__file__).parents[3]
AGENT = (ROOT / "guests/agent/src/protocol.rs").read_text()


class Scripted:
    """An agent whose answer to each connection is a function of the test's, in a thread of its own."""

    def __init__(self, answer):
        self.answer = answer
        self.client = VsockAgent(self.dial)

    def dial(self, port, timeout):
        ours, theirs = socket.socketpair()
        threading.Thread(target=self.serve, args=(Frames(theirs),), daemon=True).start()
        return ours

    def serve(self, frames):
        try:
            self.answer(frames, *frames.receive())
        except ConnectionEnded:
            pass
        finally:
            frames.close()


def failure(number, words):
    return struct.pack("<I", number) + text(words)


def exited(code, how=0):
    return struct.pack("<BI", how, code)


def test_both_halves_have_the_same_numbers():
    kinds = dict(re.findall(r"pub const (\w+): u8 = (0x\w+);", AGENT.partition("pub mod kind")[2]))
    assert {name: int(value, 16) for name, value in kinds.items()} == {each.name: each.value for each in Kind}
    assert f"VERSION: u32 = {protocol.VERSION};" in AGENT
    assert f"PORT: u32 = {protocol.PORT};" in AGENT
    assert f"READY_PORT: u32 = {protocol.READY_PORT};" in AGENT
    assert f"WINDOW: usize = {WINDOW >> 10} << 10;" in AGENT
    assert "MOST_PAYLOAD: usize = 1 << 20;" in AGENT
    assert protocol.MOST_PAYLOAD == 1 << 20


def test_a_frame_comes_as_it_went():
    ours, theirs = map(Frames, socket.socketpair())
    ours.send(Kind.DATA, b"abc")
    ours.send(Kind.END)
    assert theirs.receive() == (Kind.DATA, b"abc")
    assert theirs.receive() == (Kind.END, b"")
    ours.close()
    with pytest.raises(ConnectionEnded):
        theirs.receive()


def test_what_is_no_frame_is_refused():
    ours, theirs = socket.socketpair()
    ours.sendall(b"\x30\xff\xff\xff\xff")
    with pytest.raises(GuestAgentError, match="no frame"):
        Frames(theirs).receive()
    with pytest.raises(GuestAgentError, match="too many"):
        Frames(theirs).send(Kind.DATA, bytes(2 << 20))
    with pytest.raises(GuestAgentError, match="half a frame"):
        Fields(b"\5\0\0\0abc").blob()


def test_a_deadline_ends_waiting():
    ours, theirs = socket.socketpair()
    with pytest.raises(GuestTimeout):
        Frames(theirs).receive(time.monotonic() + 0.01)
    ours.close()


def test_a_command_is_asked_for_as_it_is():
    seen = []

    def answer(frames, kind, payload):
        fields = Fields(payload)
        seen.append((kind, *(fields.number(size) for size in (1, 2, 2)), fields.text(), fields.text()))
        seen.append([fields.text() for _ in range(fields.number(4))])
        seen.append([fields.text() for _ in range(fields.number(4))])
        frames.send(Kind.STARTED, struct.pack("<I", 7))
        frames.send(Kind.OUTPUT, b"out")
        frames.send(Kind.ERRORS, b"err")
        frames.send(Kind.EXITED, exited(9, 1))
        frames.send(Kind.END)

    client = Scripted(answer).client
    done = client.run("echo é", env={"A": "b=c"}, cwd="/x", user="u")
    assert (done.returncode, done.stdout, done.stderr) == (128 + 9, b"out", b"err")
    assert seen == [(Kind.RUN, 2, 0, 0, "u", "/x"), ["sh", "-c", "echo é"], ["A=b=c"]]


@pytest.mark.parametrize(("number", "code"), [(errno.ENOENT, 127), (errno.EACCES, 126), (errno.EIO, 126)])
def test_a_command_that_cannot_start_is_told_as_a_shell_does(number, code):
    client = Scripted(lambda frames, *_: frames.send(Kind.CANNOT_START, failure(number, "Why not"))).client
    done = client.run(["tool"])
    assert (done.returncode, done.stderr) == (code, b"gasang: tool: Why not\n")


@pytest.mark.parametrize("command", ["a\0b", [], [""], ["a", "b\0"]])
def test_a_command_that_cannot_be_is_refused(command):
    client = Scripted(lambda *_: None).client
    with pytest.raises(GuestAgentError):
        client.run(command)
    with pytest.raises(GuestAgentError):
        client.run("true", env={"A=B": "c"})


def test_no_more_input_is_sent_than_the_window_holds():
    received = []

    def answer(frames, kind, payload):
        frames.send(Kind.STARTED, struct.pack("<I", 7))
        total = 0
        while total < WINDOW:
            total += len(frames.receive()[1])
        with pytest.raises(GuestTimeout):
            frames.receive(time.monotonic() + 0.1)
        frames.send(Kind.TAKEN, struct.pack("<I", WINDOW))
        while (frame := frames.receive())[0] == Kind.INPUT:
            total += len(frame[1])
        received.append((total, frame[0]))
        frames.send(Kind.EXITED, exited(0))
        frames.send(Kind.END)

    client = Scripted(answer).client
    assert client.run(["cat"], input=bytes(WINDOW + 1000), timeout=10).returncode == 0
    assert received == [(WINDOW + 1000, Kind.INPUT_END)]


def test_a_timeout_kills_and_gives_what_came():
    signals = []

    def answer(frames, kind, payload):
        frames.send(Kind.STARTED, struct.pack("<I", 7))
        frames.send(Kind.OUTPUT, b"begun")
        signals.append(frames.receive())
        frames.send(Kind.OUTPUT, b", gone")
        frames.send(Kind.EXITED, exited(9, 1))
        frames.send(Kind.END)

    with pytest.raises(GuestTimeout, match=r"within 0\.2 seconds") as caught:
        Scripted(answer).client.run("sleep", timeout=0.2)
    assert caught.value.stdout == b"begun, gone"
    assert signals == [(Kind.SIGNAL, struct.pack("<I", 9))]


def test_an_agent_that_goes_is_an_error():
    client = Scripted(lambda frames, *_: frames.send(Kind.STARTED, struct.pack("<I", 7))).client
    with pytest.raises(GuestAgentError, match="does not answer"):
        client.run("true")
    with pytest.raises(GuestAgentError, match="does not answer"):
        Scripted(lambda *_: None).client.read("/x")


def test_the_end_of_the_machine_is_what_is_told():
    client = Scripted(lambda frames, *_: frames.receive()).client
    threading.Timer(0.1, client.close, [MachineDied("power-off")]).start()
    process = client.popen("true")
    process._command._frames.close()
    with pytest.raises(MachineDied, match="power-off"):
        process.wait(5)
    with pytest.raises(MachineDied):
        client.read("/x")


def test_a_file_that_cannot_be_had_says_why():
    client = Scripted(lambda frames, *_: frames.send(Kind.ERROR, failure(13, "Permission denied"))).client
    with pytest.raises(GuestFileError, match=r"^/x in the guest: Permission denied$") as caught:
        client.read("/x")
    assert caught.value.errno == errno.EACCES
    with pytest.raises(GuestFileError):
        client.write("/x", bytes(5_000_000))


@pytest.mark.parametrize("seed", range(20))
def test_an_agent_without_sense_is_an_error(seed):
    """Whatever bytes come: an error of ours, at once."""
    import random  # noqa: PLC0415

    chance = random.Random(seed)

    def answer(frames, kind, payload):
        for _ in range(50):
            kind = chance.choice([*Kind, chance.randrange(256)])
            frames.send(kind, chance.randbytes(chance.choice([0, 4, 5, 40])))

    client = Scripted(answer).client
    for act in (lambda: client.run("x", timeout=5), lambda: client.read("/x"), client.processes, client.ping):
        with contextlib.suppress(GuestAgentError, GuestFileError, GuestTimeout):
            act()


def entry(what, path, target="", mode=0o644):
    return struct.pack("<BI", what, mode) + text(path) + text(target)


def test_a_tree_is_made(tmp_path):
    with Receiver(tmp_path / "tree") as receiver:
        receiver.take(Kind.ENTRY, entry(DIRECTORY, "", mode=0o555))
        receiver.take(Kind.ENTRY, entry(FILE, "file", mode=0o4755))
        receiver.take(Kind.DATA, b"content")
        receiver.take(Kind.ENTRY, entry(LINK, "link", "/etc"))
    assert (tmp_path / "tree/file").read_bytes() == b"content"
    assert (tmp_path / "tree/file").stat().st_mode & 0o7777 == 0o755
    assert os.readlink(tmp_path / "tree/link") == "/etc"
    assert (tmp_path / "tree").stat().st_mode & 0o777 == 0o555


@pytest.mark.parametrize("path", ["..", "../x", "/x", "a/../../x", "a//x", "./x", "."])
def test_a_path_that_leaves_its_tree_is_refused(tmp_path, path):
    with Receiver(tmp_path / "tree") as receiver:
        receiver.take(Kind.ENTRY, entry(DIRECTORY, "", mode=0o755))
        with pytest.raises(GuestAgentError, match="no place in a tree"):
            receiver.take(Kind.ENTRY, entry(FILE, path))
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["tree"]


def test_a_link_in_a_tree_is_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    with Receiver(tmp_path / "tree") as receiver:
        receiver.take(Kind.ENTRY, entry(DIRECTORY, "", mode=0o755))
        receiver.take(Kind.ENTRY, entry(LINK, "a", str(outside)))
        with pytest.raises(OSError, match=r"Not a directory|symbolic"):
            receiver.take(Kind.ENTRY, entry(FILE, "a/x"))
        with pytest.raises(OSError, match=r"Not a directory|symbolic"):
            receiver.take(Kind.ENTRY, entry(DIRECTORY, "a", mode=0o700))
        receiver.take(Kind.ENTRY, entry(FILE, "a"))
        receiver.take(Kind.DATA, b"a file in place of the link")
    assert list(outside.iterdir()) == []
    assert not (tmp_path / "tree/a").is_symlink()
