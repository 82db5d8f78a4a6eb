"""How machines end, and what a shell is told."""

import pytest
from fake_engine import Halted, PioRead, PioWrite, SerialOutput, Shutdown

from gasang.machine import (
    DebugExit,
    EngineFailed,
    GuestPanic,
    HaltedForever,
    PowerOff,
    Reboot,
    Stopped,
    TimedOut,
    TripleFault,
)

POWER_OFF = PioWrite(0x604, 2, 5 << 10 | 1 << 13)
ACPI_RESET = PioWrite(0xCF9, 1, 0x06)
KEYBOARD_RESET = PioWrite(0x64, 1, 0xFE)
PANIC = SerialOutput(0, b"[    1.0] Kernel panic - not syncing: Attempted to kill init!\r\n")


@pytest.mark.parametrize(
    ("script", "outcome", "code"),
    [
        ([POWER_OFF], PowerOff(), 0),
        ([ACPI_RESET], Reboot(), 0),
        ([KEYBOARD_RESET], Reboot(), 0),
        ([PioWrite(0xF4, 1, 3)], DebugExit(7), 7),
        ([PioWrite(0xF4, 4, 0x10)], DebugExit(0x21), 0x21),
        ([Shutdown()], TripleFault(), 255),
        ([Halted()], HaltedForever(), 0),
        ([PANIC, ACPI_RESET], GuestPanic("Attempted to kill init!"), 255),
        ([PANIC, Halted()], GuestPanic("Attempted to kill init!"), 255),
        ([SerialOutput(0, b"Panic on CPU 0:\r\nno memory\r\n"), ACPI_RESET], GuestPanic("no memory"), 255),
        ([PANIC, POWER_OFF], PowerOff(), 0),
    ],
)
def test_guests_end_their_machines(boot, script, outcome, code):
    vm = boot(script)
    assert vm.wait(timeout=10) == outcome
    assert vm.outcome == outcome
    assert vm.exit_code == code


def test_a_running_machine_has_neither_outcome_nor_exit_code(boot):
    vm = boot([])
    assert (vm.outcome, vm.exit_code) == (None, None)


def test_stopping_is_an_outcome_too(boot):
    vm = boot([])
    vm.stop()
    assert (vm.outcome, vm.exit_code) == (Stopped(), 0)


def test_whoever_stops_it_may_say_why(boot):
    vm = boot([])
    vm.stop(TimedOut(2.5))
    assert (vm.outcome.reason, vm.exit_code) == ("timeout after 2.5 s", 124)


def test_the_first_outcome_stays(boot):
    vm = boot([POWER_OFF])
    vm.wait(timeout=10)
    vm.stop()
    assert vm.outcome == PowerOff()


def test_an_error_of_ours_ends_the_machine_as_one(boot):
    def fail(_):
        raise RuntimeError("a bug")

    vm = boot([fail])
    outcome = vm.wait(timeout=10)
    assert isinstance(outcome, EngineFailed)
    assert outcome.reason == "RuntimeError in gasang: a bug"
    assert vm.exit_code == 125


def test_a_machine_none_of_whose_processors_can_go_on_has_ended(boot):
    assert boot([], [Halted()]).wait(timeout=10) == HaltedForever()


def test_nothing_runs_after_the_end(boot):
    vm = boot([POWER_OFF, PioRead(0xE9, 1), SerialOutput(0, b"a ghost")])
    vm.wait(timeout=10)
    vm.stop()
    assert vm.console.log == b""
