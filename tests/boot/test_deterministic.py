"""Whole guests that run the same way every time."""

import os
import re
from datetime import UTC, datetime

import pytest

from gasang import Machine

COMMAND = "cat; sleep 20; cat /proc/uptime /proc/interrupts; od -An -N16 -tx8 /dev/urandom; date; echo $$"


def visit(*, disturb=False, **options):
    """Boot, run two commands; all that can be seen of it."""
    with Machine.boot(deterministic=True, **options) as machine:
        first = machine.run(COMMAND, input=bytes(range(256)) * 400, timeout=300)
        hashes = [machine.state_hash()]
        if disturb:
            for _ in range(50):
                machine.registers()
        second = machine.run("dmesg | sha256sum; cat /proc/stat", timeout=300)
        hashes.append(machine.state_hash())
        return first.stdout, second.stdout, machine.console.log, hashes, machine.statistics()["instructions"]


@pytest.fixture(scope="module")
def once():
    return visit()


def test_two_boots_are_the_same(once):
    assert visit(disturb=True) == once


@pytest.mark.slow
def test_the_interpreter_boots_to_the_same_state(once):
    assert visit(accel="interp") == once


def test_another_seed_has_other_random_numbers(once):
    other = visit(seed=1)
    assert other[0] != once[0]
    assert other[3] != once[3]


def test_idle_time_costs_no_time(once):
    up = re.search(rb"(\d+)\.\d\d (\d+)\.\d\d\n", once[0])
    assert int(up[1]) >= 20
    assert int(up[2]) >= 19


def test_the_clock_shows_the_date_given():
    date = datetime(2031, 5, 17, 12, tzinfo=UTC)
    with Machine.boot(date=date) as machine:
        told = machine.run("cat /sys/class/rtc/rtc0/date; cut -d: -f1 /sys/class/rtc/rtc0/time", check=True)
    assert told.stdout == b"2031-05-17\n12\n"


def test_the_command_line_says_the_hash(gasang):
    command = ("run", "-q", "--deterministic", "--state-hash", "--", "sh", "-c", "wc -c; cat /proc/uptime")
    one, other = (gasang(*command, input=os.urandom(1 << 16).hex().encode()) for _ in range(2))
    assert one.stdout == other.stdout
    assert one.returncode == other.returncode == 0
    assert re.fullmatch(rb"gasang: state hash [0-9a-f]{16}\n", one.stderr)
    # The input was another one, and went through memory.
    assert one.stderr != other.stderr
