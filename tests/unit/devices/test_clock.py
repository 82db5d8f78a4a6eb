"""The MC146818: time from the virtual clock, its formats, setting it, and the flags that drivers poll."""

from datetime import UTC, datetime

import pytest

from gasang.devices.clock import DATA, INDEX, SECOND, RealTimeClock, Register, memory_size_bytes
from gasang.units import GIB, MIB

START = datetime(2026, 11, 23, 22, 59, 58, tzinfo=UTC)
BINARY, HOURS_24, SET = 1 << 2, 1 << 1, 1 << 7
TIME_REGISTERS = [Register.CENTURY, Register.YEAR, Register.MONTH, Register.DAY_OF_MONTH]
TIME_REGISTERS += [Register.HOURS, Register.MINUTES, Register.SECONDS]


class Guest:
    """Reads and writes registers by the two ports, on a clock that stands still until told otherwise."""

    def __init__(self):
        self.now = 0
        self.clock = RealTimeClock(lambda: self.now, START, {0x15: 0x80})

    def __getitem__(self, register):
        self.clock.write(INDEX, 1, register)
        return self.clock.read(DATA, 1)

    def __setitem__(self, register, value):
        self.clock.write(INDEX, 1, register)
        self.clock.write(DATA, 1, value)

    def time(self):
        return "".join(f"{self[register]:02x}" for register in TIME_REGISTERS)


@pytest.fixture
def guest():
    return Guest()


def test_time_is_bcd_and_24_hours_at_first(guest):
    assert guest.time() == "20261123225958"
    assert guest[Register.DAY_OF_WEEK] == 2  # Monday, Sunday being 1


def test_time_advances_with_the_virtual_clock(guest):
    guest.now = 62 * SECOND
    assert guest.time() == "20261123230100"


def test_binary_and_12_hour_formats(guest):
    guest[Register.B] = BINARY
    assert (guest[Register.HOURS], guest[Register.MINUTES]) == (10 | 0x80, 59)
    guest.now = 2 * 3600 * SECOND
    assert guest[Register.HOURS] == 12
    guest[Register.B] = BINARY | HOURS_24
    assert guest[Register.HOURS] == 0


def test_setting_the_clock_while_it_is_stopped(guest):
    guest[Register.B] = HOURS_24 | SET
    for register, value in zip(TIME_REGISTERS, b"\x19\x99\x12\x31\x23\x59\x58", strict=True):
        guest[register] = value
    guest.now = 100 * SECOND
    assert guest.time() == "19991231235958"
    guest[Register.B] = HOURS_24
    guest.now += 3 * SECOND
    assert guest.time() == "20000101000001"


def test_setting_a_register_of_the_running_clock(guest):
    guest[Register.HOURS] = 0x07
    guest.now = 2 * SECOND
    assert guest.time() == "20261123080000"


def test_a_date_that_does_not_exist_changes_nothing(guest):
    guest[Register.MONTH] = 0x13
    assert guest.time() == "20261123225958"


def test_update_in_progress_is_set_just_before_the_second_ends(guest):
    assert not guest[Register.A] & 0x80
    guest.now = SECOND - 200_000
    assert guest[Register.A] & 0x80
    guest.now = SECOND
    assert not guest[Register.A] & 0x80


def test_register_c_tells_of_an_update_once(guest):
    assert guest[Register.C] == 0
    guest.now = SECOND
    assert guest[Register.C] == 1 << 4
    assert guest[Register.C] == 0


def test_register_d_says_that_time_is_valid_and_cannot_be_written(guest):
    guest[Register.D] = 0
    assert guest[Register.D] == 0x80


def test_the_rest_is_memory(guest):
    assert guest[0x15] == 0x80
    guest[0x7F] = 0x5A
    assert guest[0x7F] == 0x5A


def test_the_nmi_bit_is_no_part_of_the_index(guest):
    assert guest[0x80 | Register.D] == 0x80


@pytest.mark.parametrize(
    ("ram", "extended", "above_16_mib", "above_4_gib"),
    [
        (32 * MIB, 31 * 1024, 16 * 16, 0),
        (512 * MIB, 0xFFFF, 496 * 16, 0),
        (5 * GIB, 0xFFFF, (3 * 1024 - 16) * 16, 2 * 16 * 1024),
    ],
)
def test_memory_sizes(ram, extended, above_16_mib, above_4_gib):
    memory = memory_size_bytes(ram, cpus=2)
    assert memory[0x15] | memory[0x16] << 8 == 640
    assert memory[0x17] | memory[0x18] << 8 == extended
    assert memory[0x30] | memory[0x31] << 8 == extended
    assert memory[0x34] | memory[0x35] << 8 == above_16_mib
    assert memory[0x5B] | memory[0x5C] << 8 | memory[0x5D] << 16 == above_4_gib
    assert memory[0x5F] == 1
