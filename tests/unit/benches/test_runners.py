"""Running programs and judging what they say, with shell scripts and made-up runners in place of peers."""

from contextlib import ExitStack

import pytest
import runners
from figures import BenchmarkError
from runners import GuestRunner, NativeRunner, check_clock
from user import take_turns


@pytest.fixture
def script(tmp_path):
    def write(*lines):
        path = tmp_path / "program"
        path.write_text("\n".join(["#!/bin/sh", *lines]))
        path.chmod(0o755)

    return write


def test_a_result_is_taken_as_the_program_says_it(script, tmp_path):
    script("echo start program", "echo result program 12.5 11.25 3")
    assert NativeRunner(tmp_path).run("program") == 12.5
    assert NativeRunner(tmp_path, processor_time=True).run("program") == 11.25


def test_short_programs_run_more_often_and_the_median_counts(script, tmp_path):
    times = tmp_path / "times"
    script(f"echo >> {times}", f"echo result program 0.00$(wc -l < {times}) 0 1")
    assert NativeRunner(tmp_path).run("program") == 0.003
    assert times.read_text() == "\n" * 5


def test_a_program_that_the_processor_cannot_run_has_no_time(script, tmp_path):
    script("echo skip program the processor has no AVX-1024")
    assert NativeRunner(tmp_path).run("program") is None


@pytest.mark.parametrize(
    "lines",
    [
        ["echo wrong program 0x1, not 0x2", "exit 1"],
        ["echo result program 1.0 1.0 1", "exit 1"],
        ["echo result other 1.0 1.0 1"],
        ["echo start program"],
    ],
)
def test_all_else_is_a_failure(script, tmp_path, lines):
    script(*lines)
    with pytest.raises(BenchmarkError, match="program natively"):
        NativeRunner(tmp_path).run("program")


@pytest.mark.parametrize("inside", [1.0, 0.9, 1.2])
def test_a_guests_clock_may_differ_a_little(inside):
    check_clock(inside, between=1.0, around=1.1)


@pytest.mark.parametrize("inside", [0.5, 0.8, 1.4])
def test_a_guests_clock_may_not_run_slow_or_fast(inside):
    with pytest.raises(BenchmarkError, match="clock"):
        check_clock(inside, between=1.0, around=1.1)


GUEST = """
echo boot >> {boots}
echo ready
while read program; do
    case "$program" in
    /good) echo start good; echo result good 0.01 0.01 1;;
    /absent) echo skip absent the processor has no AVX-1024;;
    /bad) echo start bad; echo wrong bad 0x1, not 0x2;;
    /slow) echo start slow; echo result slow 9.9 9.9 1;;
    /dead) exit;;
    esac
done
"""


@pytest.fixture
def guest(tmp_path, monkeypatch):
    """A runner whose guest is a shell script, and the file that has a line for each of its boots."""
    boots = tmp_path / "boots"
    script = GUEST.format(boots=boots)
    monkeypatch.setattr(runners, "command", lambda peer, guest: ["sh", "-c", script])
    with ExitStack() as stack:
        yield GuestRunner("peer", None, stack), boots


def test_a_guest_is_booted_once_while_its_programs_end_well(guest):
    runner, boots = guest
    assert runner.run("good") >= 0.01
    assert runner.run("absent") is None
    assert runner.run("good") >= 0.01
    assert boots.read_text() == "boot\n"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("bad", "bad in peer: wrong bad 0x1, not 0x2"),
        ("slow", "slow in peer: the guest's clock"),
        ("dead", "dead in peer: the peer ended"),
    ],
)
def test_a_guest_is_booted_again_after_a_failure(guest, name, why):
    runner, boots = guest
    with pytest.raises(BenchmarkError, match=why):
        runner.run(name)
    assert runner.run("good") >= 0.01
    assert boots.read_text() == "boot\nboot\n"


class Scripted:
    """A runner that gives one answer after another."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def run(self, name):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_peers_take_turns_and_who_fails_is_left_out():
    peers = {
        "native": Scripted(1.0, 2.0, 3.0, 4.0),
        "gasang": Scripted(5.0, BenchmarkError("it broke"), 7.0),
        "qemu": Scripted(None, 8.0, 9.0),
    }
    samples, failures = take_turns(peers, ["first", "second"], rounds=2)
    assert samples == {
        "first": {"native": [1.0, 3.0], "gasang": [5.0, 7.0]},
        "second": {"native": [2.0, 4.0], "qemu": [8.0, 9.0]},
    }
    assert failures == ["it broke"]
