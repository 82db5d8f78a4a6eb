"""How machines end, and the exit codes that stand for it."""

import hashlib
import subprocess

import pytest

from gasang import Machine
from gasang.errors import MachineDied
from gasang.machine import GuestPanic, HaltedForever, PowerOff, Reboot, TripleFault


def ending(command, **options):
    """How a machine ends whose guest runs a command."""
    with Machine.boot(**options) as machine:
        with pytest.raises(MachineDied):
            machine.run(command, timeout=120)
        return machine.wait(30)


def test_power_off_is_0():
    outcome = ending("poweroff -f; sleep 60")
    assert outcome == PowerOff()
    assert outcome.exit_code == 0


def test_reboot_is_0():
    outcome = ending("reboot -f; sleep 60")
    assert outcome == Reboot()
    assert outcome.exit_code == 0


def test_panic_is_255():
    outcome = ending("echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger; sleep 60")
    assert isinstance(outcome, GuestPanic)
    assert outcome.message == "sysrq triggered crash"
    assert outcome.exit_code == 255


def test_panic_without_an_init_is_255():
    with Machine.boot(append="init=/nothing rdinit=/nothing") as machine:
        outcome = machine.wait(120)
    assert isinstance(outcome, GuestPanic)
    assert outcome.exit_code == 255


@pytest.fixture
def program(tmp_path):
    """Builds a multiboot kernel of 32-bit assembly."""

    def build(body):
        source, linked = tmp_path / "kernel.s", tmp_path / "kernel"
        header = ".long 0x1badb002, 0, -0x1badb002"
        source.write_text(f".intel_syntax noprefix\n{header}\n.globl _start\n_start:\n{body}\n")
        subprocess.run(["as", "--32", "-o", tmp_path / "kernel.o", source], check=True)
        link = ["ld", "-m", "elf_i386", "-n", "-Ttext", "0x100000", "-o", linked, tmp_path / "kernel.o"]
        subprocess.run(link, check=True)
        return linked

    return build


@pytest.mark.parametrize("accel", ["bt", "interp"])
@pytest.mark.parametrize(
    ("body", "expected"),
    [("cli\n hlt", HaltedForever()), ("push 0\n push 0\n lidt [esp]\n ud2", TripleFault())],
    ids=["halt-forever", "triple-fault"],
)
def test_processor_stops(program, body, expected, accel):
    with Machine.boot(kernel=program(f"mov esp, 0x8000\n {body}"), accel=accel, memory="32M") as machine:
        outcome = machine.wait(30)
    assert outcome == expected


def test_triple_fault_is_255_on_the_command_line(gasang, program):
    done = gasang("run", "-m", "32M", "--kernel", program("push 0\n push 0\n lidt [esp]\n ud2"))
    assert done.returncode == 255


def test_debug_exit_is_the_code_on_the_command_line(gasang, program):
    done = gasang("run", "-m", "32M", "--kernel", program("mov al, 21\n out 0xf4, al\n hlt"))
    assert done.returncode == 43


def test_halt_forever_is_0_on_the_command_line(gasang, program):
    assert gasang("run", "-m", "32M", "--kernel", program("cli\n hlt")).returncode == 0


def test_timeout_is_124(gasang, program):
    done = gasang("run", "-m", "32M", "--timeout", "1", "--kernel", program("1: jmp 1b"))
    assert done.returncode == 124


def test_command_has_its_output_and_code(gasang):
    done = gasang("run", "--", "sh", "-c", "uname -a; echo complaint >&2; exit 7")
    assert done.returncode == 7
    assert done.stdout.startswith(b"Linux gasang 6.")
    assert done.stderr.splitlines()[-1] == b"complaint"


def test_command_has_its_input(gasang):
    done = gasang("run", "-q", "--", "sha256sum", input=b"known data")
    assert done.stdout.split()[0].decode() == hashlib.sha256(b"known data").hexdigest()
    assert done.returncode == 0
    assert done.stderr == b""


def test_console_in_a_pipe_is_stdout(gasang):
    done = gasang("run", input=b"echo $((40 + 2)); exit 5\n")
    assert b"42" in done.stdout
    assert done.returncode == 5
