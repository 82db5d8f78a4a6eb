"""The 8042 without a keyboard."""

import pytest

from gasang.devices.keyboard_controller import DATA, STATUS, Command, KeyboardController


class Guest:
    def __init__(self):
        self.resets = 0
        self.controller = KeyboardController(self._reset)

    def _reset(self):
        self.resets += 1

    def command(self, code, *operands):
        self.controller.write(STATUS, 1, code)
        for operand in operands:
            self.controller.write(DATA, 1, operand)

    def answer(self):
        assert self.controller.read(STATUS, 1) & 1, "no answer is waiting"
        return self.controller.read(DATA, 1)

    def has_answer(self):
        return bool(self.controller.read(STATUS, 1) & 1)


@pytest.fixture
def guest():
    return Guest()


def test_self_test_passes(guest):
    guest.command(Command.SELF_TEST)
    assert guest.answer() == 0x55
    assert not guest.has_answer()


def test_interface_test_passes(guest):
    guest.command(Command.TEST_KEYBOARD_INTERFACE)
    assert guest.answer() == 0


def test_configuration_is_kept(guest):
    guest.command(Command.WRITE_CONFIGURATION, 0x47)
    guest.command(Command.READ_CONFIGURATION)
    assert guest.answer() == 0x47


@pytest.mark.parametrize(
    ("off", "on", "bit"),
    [
        (Command.DISABLE_KEYBOARD, Command.ENABLE_KEYBOARD, 1 << 4),
        (Command.DISABLE_MOUSE, Command.ENABLE_MOUSE, 1 << 5),
    ],
)
def test_ports_are_switched_off_and_on(guest, off, on, bit):
    guest.command(on)
    guest.command(Command.READ_CONFIGURATION)
    assert not guest.answer() & bit
    guest.command(off)
    guest.command(Command.READ_CONFIGURATION)
    assert guest.answer() & bit


def test_no_keyboard_answers(guest):
    guest.controller.write(DATA, 1, 0xFF)
    assert not guest.has_answer()


def test_status_tells_command_from_data(guest):
    guest.command(0xAD)
    assert guest.controller.read(STATUS, 1) & 1 << 3
    guest.controller.write(DATA, 1, 0)
    assert not guest.controller.read(STATUS, 1) & 1 << 3


def test_a_pulse_of_the_reset_line_resets(guest):
    guest.command(0xFE)
    assert guest.resets == 1


@pytest.mark.parametrize("code", [0xFF, 0xFD, 0xF1, 0x00])
def test_other_commands_do_not_reset(guest, code):
    guest.command(code)
    assert guest.resets == 0


def test_the_output_port_resets_when_its_line_goes_low(guest):
    guest.command(Command.WRITE_OUTPUT_PORT, 0x03)
    assert guest.resets == 0
    guest.command(Command.WRITE_OUTPUT_PORT, 0x02)
    assert guest.resets == 1


def test_the_output_port_reads_as_running_with_a20_open(guest):
    guest.command(Command.READ_OUTPUT_PORT)
    assert guest.answer() == 0b11
