"""The command line's errors: one line on stderr, exit code 125, nothing on stdout."""

import json
import os
import signal
import subprocess
import sys

import pytest

from gasang import cli
from gasang.cli.report import Terminated, terminations_raise

PROGRAM = [sys.executable, "-c", "import sys; from gasang.cli import main; sys.exit(main())"]


def gasang(*arguments, **settings):
    words = [*PROGRAM, *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, **settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "VERB"),
        (["walk"], "'walk'"),
        (["run", "--frob"], "unknown option --frob"),
        (["run", "uname", "-a"], "gasang run -- uname -a"),
        (["run", "--"], "no command behind --"),
        (["run", "-m", "banana"], "'banana' is not a size"),
        (["run", "-m", "8M"], "memory 8M is too little"),
        (["run", "-m"], "expected one argument"),
        (["run", "-c", "two"], "'two'"),
        (["run", "-c", "0"], "cpus is 0"),
        (["run", "--accel", "xen"], "'xen'"),
        (["run", "--cpu", "max,fast"], "'max,fast'"),
        (["run", "--timeout", "0"], "--timeout 0"),
        (["run", "--timeout", "soon"], "'soon'"),
        (["run", "--initrd", "i"], "--initrd needs a --kernel"),
        (["run", "--module", "m"], "--kernel"),
        (["run", "--kernel", "k", "--initrd", "i", "--", "true"], "leave out --initrd"),
        (["run", "--trace", "everything"], "'everything'"),
        (["run", "--trace-file", "f"], "--trace with one of blocks, exits, vmx"),
        (["run", "--trace", "blocks", "--accel", "interp"], "--accel interp"),
        (["run", "--kernel", "/no/such/kernel"], "/no/such/kernel"),
        (
            ["run", "--trace", "blocks", "--trace-file", "/no/such/file", "--kernel", "/dev/null"],
            "No such file",
        ),
        (["run", "--irqchip", "split"], "'split'"),
        (["run", "--drive", "/no/such/disk", "--kernel", "/dev/null"], "drive /no/such/disk: No such file"),
        (["run", "--drive", "file=/dev/null,format=raw", "--kernel", "/dev/null"], "neither a file nor"),
        (["run", "--drive", "file=x,cache=none"], "no option 'cache'"),
        (["run", *["--drive", "x"] * 25], "25 drives: there is room for 24"),
        (["run", "--deterministic", "-c", "2"], "one processor, not 2"),
        (["run", "--seed", "7"], "--deterministic"),
        (["run", "--date", "tomorrow"], "--date tomorrow"),
        (["run", "--count-blocks"], "--count-blocks needs --profile"),
        (["run", "--profile", "--count-blocks", "--accel", "interp"], "--accel interp"),
        (["run", "--profile", "/no/such/file", "--kernel", "/dev/null"], "No such file"),
        (["top", "--", "x"], "no command for a guest"),
        (["doctor", "x"], "unexpected 'x'"),
        (["doctor", "--", "x"], "no command for a guest"),
    ],
)
def test_error_is_one_line(arguments, message, capfd):
    assert cli.main(arguments) == 125
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err.startswith("gasang: error: ")
    assert message in output.err
    assert output.err.count("\n") == 1


def test_error_is_the_exit_code_of_the_program():
    done = gasang("run", "-m", "banana")
    assert done.returncode == 125
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["doctor", "--help"]])
def test_help_has_no_error(arguments):
    done = gasang(*arguments)
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.startswith("usage: gasang")


def test_help_shows_examples():
    assert "gasang run -- uname -a" in gasang("--help").stdout
    assert "examples:" in gasang("run", "--help").stdout


def test_version():
    assert gasang("--version").stdout.startswith("gasang 0.")


def test_doctor_speaks_to_people_and_programs():
    people, programs = gasang("doctor"), gasang("doctor", "--json")
    assert people.returncode == programs.returncode == 0
    findings = {finding["name"]: finding for finding in json.loads(programs.stdout)}
    assert {"/dev/kvm", "features", "memory", "cache", "package client"} <= findings.keys()
    for finding in findings.values():
        assert finding["says"]
        assert finding["name"] in people.stdout


def test_closed_stdout_is_no_traceback():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*PROGRAM, "doctor"], stdout=write, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(write)
    assert done.returncode == 141
    assert done.stderr == b""


def test_internal_error_is_one_line(monkeypatch, capfd):
    def fail(options):
        raise ZeroDivisionError("of our\nown")

    monkeypatch.setattr("gasang.cli.doctor.main", fail)
    assert cli.main(["doctor"]) == 125
    error = capfd.readouterr().err
    assert error.startswith("gasang: error: internal error: ZeroDivisionError: of our own")
    assert error.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_becomes_the_exit_code(number, monkeypatch):
    monkeypatch.setattr("gasang.cli.doctor.main", lambda options: os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    assert cli.main(["doctor"]) == 128 + number
    assert signal.getsignal(number) == before


def test_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminations_raise():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_second_signal_does_not_disturb_the_end():
    def end_twice():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Terminated), terminations_raise():
        end_twice()
