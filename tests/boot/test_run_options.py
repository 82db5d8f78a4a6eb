"""How `gasang run` runs its command: environment, directory, user, terminal."""

import sys

import pexpect
import pytest


@pytest.mark.parametrize("start", [(), ("--cold",)], ids=["warm", "cold"])
def test_a_command_has_its_environment_and_directory(gasang, start):
    done = gasang(
        "run", "-q", *start, "-e", "A=b", "-e", "C=d e", "-w", "/tmp", "--", "sh", "-c", "echo $A $C; pwd"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"b d e\n/tmp\n", b"")


@pytest.mark.parametrize("start", [(), ("--cold",)], ids=["warm", "cold"])
def test_a_command_is_anothers(gasang, start):
    done = gasang("run", "-q", *start, "-u", "1234:50", "--", "sh", "-c", "id -u; id -g")
    assert done.stdout == b"1234\n50\n"


def test_a_directory_that_is_not_there_is_told(gasang):
    done = gasang("run", "-q", "-w", "/none", "--", "pwd")
    assert (done.returncode, done.stdout) == (126, b"")
    assert b"cannot enter /none: No such file or directory" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-e", "A=b"), "-e is for a command"),
        (("-e", "=b", "--", "true"), "-e =b: write NAME=VALUE"),
        (("-t", "--", "true"), "-t needs a terminal"),
        (("-u", "me", "--kernel", "k", "--", "true"), "-u needs the default guest"),
    ],
)
def test_a_mistake_is_one_line(gasang, words, message):
    done = gasang("run", *words)
    assert done.returncode == 125
    assert message in done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1


def test_a_command_has_our_terminal():
    script = "tty; stty size; read line; echo got $line; exit 4"
    words = ["-m", "gasang", "run", "-q", "-t", "--", "sh", "-c", script]
    terminal = pexpect.spawn(sys.executable, words, timeout=60, dimensions=(30, 90))
    terminal.expect("/dev/pts/0")
    terminal.expect("30 90")
    terminal.send("typed\r")
    terminal.expect("got typed")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 4
