"""`gasang top`."""

import os
import subprocess
import sys

import pexpect
import pytest

from gasang.cli.top import machine_lines, summary
from gasang.profile.live import Reading

BEFORE = Reading(
    pid=42,
    name="debian",
    processors=2,
    memory=512 << 20,
    phases={"code": 1_000_000_000, "interpret": 0, "idle": 0},
    symbols={"main": 100, "work": 50},
    counters={
        "instructions": 5_000_000,
        "exits": 10,
        "tlb_refills": 0,
        "irq_injections": 1,
        "blocks_translated": 7,
    },
)
NOW = BEFORE._replace(
    phases={"code": 3_500_000_000, "interpret": 500_000_000, "poll": 250_000_000, "idle": 750_000_000},
    symbols={"main": 100, "work": 80, "new": 70},
    counters={
        "instructions": 13_000_000,
        "exits": 50,
        "tlb_refills": 6,
        "irq_injections": 5,
        "blocks_translated": 7,
    },
)


def test_rates_and_shares_are_those_between_two_looks():
    assert list(machine_lines(NOW, BEFORE)) == [
        "",
        "42 debian: 2 CPUs, 512M, 2.0 s",
        "  MIPS 4  exits/s 20  TLB refills/s 3  interrupts/s 2  blocks/s 0",
        "  T1 62.5%  T0 12.5%  translation 0.0%  misses 0.0%  dispatch 6.2%  devices 0.0%  idle 18.8%",
        "    70.0%  new",
        "    30.0%  work",
    ]


def test_the_first_look_has_shares_but_no_rates_before_it():
    lines = list(machine_lines(NOW, None))
    assert "MIPS 0" in lines[2]
    assert "T1 70.0%" in lines[3]


def test_a_machine_that_did_nothing_yet_is_shown():
    lines = list(machine_lines(BEFORE, BEFORE))
    assert lines[2].startswith("  MIPS -")
    assert lines[3].startswith("  T1 -")


def test_a_profile_that_began_anew_counts_from_there():
    anew = NOW._replace(phases={"code": 800_000_000}, symbols={"main": 3})
    lines = list(machine_lines(anew, BEFORE))
    assert lines[1].endswith("0.4 s")
    assert lines[4:] == ["   100.0%  main"]


@pytest.mark.parametrize(("count", "text"), [(1, "1 machine"), (3, "3 machines")])
def test_the_first_line_counts_machines(count, text):
    assert summary(count) == f"gasang top: {text}"


def gasang(tmp_path, *arguments):
    command = (sys.executable, "-m", "gasang", "top", *arguments)
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def test_no_machine_is_said(tmp_path):
    done = gasang(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "gasang: error: no machine is running\n")
    assert gasang(tmp_path, "web").stderr == "gasang: error: no machine is running as web\n"


@pytest.mark.parametrize("options", [("-d", "0"), ("-n", "0"), ("-d", "nan")])
def test_numbers_out_of_range_are_refused(tmp_path, options):
    done = gasang(tmp_path, *options)
    assert done.returncode == 125
    assert done.stderr.startswith("gasang: error: --")


SHOWN = """
import os, sys
from gasang.cli import main
from gasang.profile import live
from gasang.profile.live import Publisher
sys.path.insert(0, sys.argv[1])
from test_live import Machine
with Publisher(Machine(), "test", 1, 32 << 20, profiled=False):
    sys.exit(main(["top", *sys.argv[2:]]))
"""


def shown(tmp_path, *arguments):
    """`gasang top` on a terminal, where one machine is running."""
    tests = os.path.join(os.path.dirname(os.path.dirname(__file__)), "profile")
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    command = ["-c", SHOWN, tests, *arguments]
    return pexpect.spawn(sys.executable, command, env=environment, encoding="utf-8", timeout=30)


def test_the_terminal_is_left_as_it_was(tmp_path):
    terminal = shown(tmp_path, "-d", "0.01", "-n", "2")
    terminal.expect_exact("\x1b[?1049h\x1b[?25l")
    terminal.expect_exact("gasang top: 1 machine")
    terminal.expect_exact("\x1b[?25h\x1b[?1049l")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0


def test_ctrl_c_ends_and_leaves_the_terminal_as_it_was(tmp_path):
    terminal = shown(tmp_path, "-d", "0.01")
    terminal.expect_exact("gasang top: 1 machine")
    terminal.sendintr()
    terminal.expect_exact("\x1b[?25h\x1b[?1049l")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0


def test_batch_output_has_no_escape_sequences(tmp_path):
    terminal = shown(tmp_path, "-b", "-n", "2", "-d", "0.01")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.before.count("gasang top: 1 machine") == 2
    assert "\x1b" not in terminal.before
