"""The host's half of the agent, against a script that plays the guest's."""

import io
import queue
import re
import threading

import pytest

from gasang.errors import GuestAgentError, GuestTimeout, MachineDied
from gasang.guest import agent as agent_module
from gasang.guest.agent import CONTROL, ERRORS, OUTPUT, Agent

RUN = re.compile(r"run ([0-9a-f]{32}) (.*?)( input)?\n", re.DOTALL)


class Guest:
    """Plays the guest: what the host sends is noted; `play` runs in a thread, as a machine would."""

    def __init__(self, seed=None):
        self.sent = queue.Queue()
        self.agent = Agent(lambda port, data: self.sent.put((port, data)), seed)
        self.failure = None

    def say(self, *lines):
        self.agent.receive(CONTROL, "".join(f"{line}\n" for line in lines).encode())

    def next(self, port):
        """What the host sends next, which is on `port`."""
        at, data = self.sent.get(timeout=10)
        assert at == port
        return data

    def next_run(self):
        """The marker and the code of the command that the host sends next."""
        marker, code, _ = RUN.fullmatch(self.next(CONTROL).decode()).groups()
        return marker.encode() + b"\n", code

    def end(self, marker, code=0, *, output=b"", errors=b""):
        self.agent.receive(OUTPUT, output + marker)
        self.agent.receive(ERRORS, errors + marker)
        self.say(f"exit {code}")

    def play(self, script):
        def guarded():
            try:
                self.say("ready")
                script(self)
            except BaseException as error:
                self.failure = error
                self.agent.close(MachineDied("the script of the test failed"))

        self.thread = threading.Thread(target=guarded)
        self.thread.start()

    def finish(self):
        self.thread.join(timeout=10)
        if self.failure:
            raise self.failure


@pytest.fixture
def guest():
    return Guest()


@pytest.fixture
def short_grace(monkeypatch):
    monkeypatch.setattr(agent_module, "KILL_GRACE", 0.05)


def test_command_gives_code_and_both_streams(guest):
    def script(guest):
        marker, code = guest.next_run()
        assert code == "'exec setsid uname -a'"
        guest.say("started 100 98 99")
        guest.end(marker, 7, output=b"Linux\n", errors=b"oops\n")

    guest.play(script)
    done = guest.agent.run(["uname", "-a"])
    guest.finish()
    assert (done.args, done.returncode, done.stdout, done.stderr) == (
        ["uname", "-a"],
        7,
        b"Linux\n",
        b"oops\n",
    )


def test_output_may_hold_anything_split_anywhere(guest):
    output = bytes(range(256)) * 3 + b"exit 0\n"

    def script(guest):
        marker, _ = guest.next_run()
        tricky = output + marker[:-1] + b"-" + marker[:5]
        guest.say("started 1 2 3", "exit 0")  # before the output that it overtook
        for byte in tricky + marker:
            guest.agent.receive(OUTPUT, bytes([byte]))
        guest.agent.receive(ERRORS, marker)

    guest.play(script)
    done = guest.agent.run("x")
    guest.finish()
    assert done.stdout.startswith(output)
    assert len(done.stdout) == len(output) + 33 + 5
    assert done.stderr == b""


def test_output_is_passed_on_as_it_comes(guest):
    first_seen = threading.Event()
    seen = []

    def script(guest):
        marker, _ = guest.next_run()
        guest.agent.receive(OUTPUT, b"first")
        assert first_seen.wait(10)
        guest.end(marker, output=b"second")

    def sink(data):
        seen.append(data)
        first_seen.set()

    guest.play(script)
    assert guest.agent.stream("x", stdin=None, stdout=sink, stderr=seen.append) == 0
    guest.finish()
    assert seen == [b"first", b"second"]


def test_noise_between_commands_is_ignored(guest):
    def script(guest):
        for _ in range(2):
            marker, _ = guest.next_run()
            guest.end(marker, output=b"x")
            guest.agent.receive(OUTPUT, b"a process left behind")
            guest.say("garbage", "exit", "exit 1 2", "want more", "\x00\xff", "")

    guest.play(script)
    assert guest.agent.run("one").stdout == b"x"
    assert guest.agent.run("two").stdout == b"x"
    guest.finish()


def test_input_goes_by_chunks_that_the_guest_asks_for(guest):
    data = bytes(range(256)) * 300

    def script(guest):
        marker, _ = guest.next_run()
        received = b""
        while True:
            guest.say("want")
            length, _, chunk = guest.next(OUTPUT).partition(b"\n")
            assert int(length) == len(chunk) <= agent_module.CHUNK
            if not chunk:
                break
            received += chunk
        guest.end(marker, output=received)

    guest.play(script)
    assert guest.agent.run("cat", input=data).stdout == data
    guest.finish()


def test_command_that_ends_early_ends_its_input(guest):
    read, write = io.BytesIO(b"x" * 10), threading.Event()

    class Endless:
        def read(self, size):
            write.wait(10)  # as a terminal where nobody types
            return read.read(size)

    def script(guest):
        marker, _ = guest.next_run()
        guest.say("want")
        guest.end(marker)
        assert guest.next(OUTPUT) == b"0\n"

    guest.play(script)
    assert guest.agent.stream("true", stdin=Endless(), stdout=print, stderr=print) == 0
    guest.finish()
    write.set()


def test_timeout_kills_the_session_and_keeps_the_output(guest):
    def script(guest):
        marker, _ = guest.next_run()
        guest.say("started 100 98 99")
        guest.agent.receive(OUTPUT, b"partial")
        assert guest.next(ERRORS) == b"kill -KILL -100\n"
        guest.end(marker, 137, errors=b"late")
        marker, _ = guest.next_run()
        guest.end(marker, 0)

    guest.play(script)
    with pytest.raises(GuestTimeout, match=r"'sleep 9' did not end within 0\.2 seconds") as caught:
        guest.agent.run("sleep 9", timeout=0.2)
    assert (caught.value.stdout, caught.value.stderr) == (b"partial", b"late")
    assert guest.agent.run("next").returncode == 0
    guest.finish()


def test_process_that_left_the_session_does_not_hold_the_agent(guest, short_grace):
    def script(guest):
        marker, _ = guest.next_run()
        guest.say("started 100 98 99")
        assert guest.next(ERRORS) == b"kill -KILL -100\n"
        assert guest.next(ERRORS).endswith(b"kill -KILL 98 99\n")
        guest.end(marker, 137)

    guest.play(script)
    with pytest.raises(GuestTimeout):
        guest.agent.run("x", timeout=0.01)
    guest.finish()


def test_guest_that_no_longer_answers_is_given_up(guest, short_grace):
    guest.play(lambda guest: guest.next_run())
    with pytest.raises(GuestTimeout):
        guest.agent.run("x", timeout=0.01)
    with pytest.raises(GuestAgentError, match="no longer answers"):
        guest.agent.run("y")
    guest.finish()


def test_sink_that_fails_ends_the_command(guest):
    def script(guest):
        marker, _ = guest.next_run()
        guest.say("started 100 98 99")
        guest.agent.receive(OUTPUT, b"data")
        assert guest.next(ERRORS) == b"kill -KILL -100\n"
        guest.end(marker, 137)

    def broken(data):
        raise BrokenPipeError

    guest.play(script)
    with pytest.raises(BrokenPipeError):
        guest.agent.stream("x", stdin=None, stdout=broken, stderr=broken)
    guest.finish()


def test_machine_that_dies_ends_the_call(guest):
    def script(guest):
        guest.next_run()
        guest.agent.close(MachineDied("triple fault"))

    guest.play(script)
    with pytest.raises(MachineDied, match="triple fault"):
        guest.agent.run("x")
    with pytest.raises(MachineDied, match="triple fault"):
        guest.agent.run("y")
    guest.finish()


def test_guest_without_agent_is_a_timeout(guest):
    with pytest.raises(GuestTimeout, match=r"did not report within 0\.01 seconds"):
        guest.agent.wait_ready(timeout=0.01)
    assert not guest.agent.ready


def test_signal_goes_to_the_session(guest):
    def script(guest):
        marker, _ = guest.next_run()
        guest.say("started 100 98 99")
        guest.agent.signal(15)
        assert guest.next(ERRORS) == b"kill -15 -100\n"
        guest.end(marker, 143)

    guest.play(script)
    assert guest.agent.run("x").returncode == 143
    guest.finish()


def test_signal_without_a_command_does_nothing(guest):
    guest.say("ready")
    guest.agent.signal(15)
    assert guest.sent.empty()


def test_exit_code_of_the_shell_is_kept(guest):
    assert guest.agent.shell is None
    guest.say("shell 3")
    assert guest.agent.shell == 3


def test_command_that_cannot_be_sent_does_not_block_the_agent(guest):
    guest.play(lambda guest: guest.end(guest.next_run()[0]))
    with pytest.raises(GuestAgentError):
        guest.agent.run(["a\0b"])
    assert guest.agent.run("x").returncode == 0
    guest.finish()


def test_markers_are_chosen_by_the_seed_and_never_repeat():
    def markers(seed):
        found = []

        def script(guest):
            for _ in range(2):
                marker, _ = guest.next_run()
                found.append(marker)
                guest.say("started 1 2 3")
                guest.end(marker)

        guest = Guest(seed)
        guest.play(script)
        for _ in range(2):
            guest.agent.run("x")
        guest.finish()
        return found

    assert markers(1) == markers(1)
    assert len(set(markers(1) + markers(2))) == 4


def test_the_guest_stands_still_while_it_waits_for_us():
    """The thread that runs the guest never sees an unanswered request for a command or for input."""
    guest = Guest(seed=0)
    log = []

    def script(guest):
        agent = guest.agent
        agent.until_answered()
        marker, _ = RUN.fullmatch(guest.sent.get_nowait()[1].decode()).group(1, 2)
        agent.receive(CONTROL, b"started 1 2 3\n")
        agent.until_answered()
        for _ in range(3):
            agent.receive(CONTROL, b"want\n")
            agent.until_answered()
            log.append(guest.sent.get_nowait())
        guest.end(marker.encode() + b"\n")
        agent.until_answered()
        log.append(guest.sent.get_nowait()[1].startswith(b"run "))
        agent.dismiss()
        agent.close(MachineDied("done"))

    guest.play(script)
    guest.agent.run("x", input=b"a" * (agent_module.CHUNK + 3))
    with pytest.raises(MachineDied):
        guest.agent.run("y")
    guest.finish()
    full = b"%d\n" % agent_module.CHUNK + b"a" * agent_module.CHUNK
    assert log == [(OUTPUT, full), (OUTPUT, b"3\naaa"), (OUTPUT, b"0\n"), True]


def test_the_guest_does_not_wait_for_an_agent_that_is_dismissed_or_not_there_yet():
    guest = Guest(seed=0)
    guest.agent.until_answered()
    guest.say("ready")
    guest.agent.dismiss()
    guest.agent.until_answered()


def test_input_comes_in_full_chunks_if_there_is_a_seed():
    class Drop:
        """Gives a byte at a time."""

        left = 70_000

        def read(self, size):
            self.left -= 1
            return b"x" if self.left >= 0 else b""

    sizes = []

    def script(guest):
        marker, _ = guest.next_run()
        guest.say("started 1 2 3")
        while not sizes or sizes[-1]:
            guest.say("want")
            sizes.append(int(guest.next(OUTPUT).split(b"\n")[0]))
        guest.end(marker)

    guest = Guest(seed=0)
    guest.play(script)
    guest.agent.stream("x", stdin=Drop(), stdout=lambda _: None, stderr=lambda _: None)
    guest.finish()
    assert sizes == [32768, 32768, 70_000 - 65536, 0]
