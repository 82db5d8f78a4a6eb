"""ACPI PM1a: power-off, the power button, and registers written in parts."""

import pytest

from gasang.devices.power import CONTROL, ENABLE, STATUS, PowerManagement

OFF = 5
SLEEP_ENABLE = 1 << 13
POWER_BUTTON = 1 << 8


class Line:
    high = False

    def set_level(self, high):
        self.high = high


class Guest:
    def __init__(self):
        self.line = Line()
        self.off = 0
        self.device = PowerManagement(self.line, self._power_off, OFF)

    def _power_off(self):
        self.off += 1

    def read(self, register):
        return self.device.read(register, 1) | self.device.read(register + 1, 1) << 8

    def write(self, register, value):
        self.device.write(register, 1, value & 0xFF)
        self.device.write(register + 1, 1, value >> 8)


@pytest.fixture
def guest():
    return Guest()


def test_sleep_enable_with_the_off_type_powers_off(guest):
    guest.write(CONTROL, OFF << 10 | SLEEP_ENABLE)
    assert guest.off == 1


def test_the_off_type_alone_does_nothing(guest):
    guest.write(CONTROL, OFF << 10)
    assert guest.off == 0
    assert guest.read(CONTROL) == OFF << 10 | 1


def test_other_sleep_types_are_not_supported(guest):
    guest.write(CONTROL, 1 << 10 | SLEEP_ENABLE)
    assert guest.off == 0
    assert not guest.read(CONTROL) & SLEEP_ENABLE


def test_acpi_mode_cannot_be_left(guest):
    guest.write(CONTROL, 0)
    assert guest.read(CONTROL) & 1


def test_the_power_button_interrupts_until_its_status_is_cleared(guest):
    guest.write(ENABLE, POWER_BUTTON)
    guest.device.press_power_button()
    assert guest.line.high
    assert guest.read(STATUS) == POWER_BUTTON
    guest.write(STATUS, POWER_BUTTON)
    assert not guest.line.high
    assert guest.read(STATUS) == 0


def test_the_power_button_waits_for_its_enable(guest):
    guest.device.press_power_button()
    assert not guest.line.high
    guest.write(ENABLE, POWER_BUTTON)
    assert guest.line.high


def test_writing_one_byte_keeps_the_other(guest):
    guest.write(ENABLE, POWER_BUTTON | 1)
    guest.device.write(ENABLE, 1, 0)
    assert guest.read(ENABLE) == POWER_BUTTON
