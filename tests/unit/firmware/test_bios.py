"""The remains of a BIOS."""

import struct

import pytest

from gasang.firmware.bios import bios_remains
from gasang.firmware.memory_map import LOW_MEMORY_END

IRET = b"\xcf"


@pytest.fixture(scope="module")
def memory():
    content = bytearray(1 << 20)
    for address, piece in bios_remains().items():
        content[address : address + len(piece)] = piece
    return content


def handler(memory, vector):
    offset, segment = struct.unpack_from("<HH", memory, 4 * vector)
    return (segment << 4) + offset


@pytest.mark.parametrize("vector", [0x00, 0x08, 0x0D, 0x0F, 0x70, 0x77])
def test_exceptions_and_hardware_interrupts_just_return(memory, vector):
    assert memory[handler(memory, vector) :][:1] == IRET


@pytest.mark.parametrize("vector", [0x10, 0x13, 0x15, 0x16, 0x1A, 0xFF])
def test_services_return_with_the_carry_flag_of_the_caller_set(memory, vector):
    push_bp, mov_bp_sp, or_flags_1, pop_bp = b"\x55", b"\x89\xe5", b"\x83\x4e\x06\x01", b"\x5d"
    routine = push_bp + mov_bp_sp + or_flags_1 + pop_bp + IRET
    assert memory[handler(memory, vector) :][: len(routine)] == routine


def test_the_reset_vector_pulses_the_reset_line(memory):
    mov_al_fe, out_64_al = b"\xb0\xfe", b"\xe6\x64"
    assert memory[0xFFFF0:][:4] == mov_al_fe + out_64_al


def test_the_data_area_agrees_with_the_memory_map(memory):
    assert int.from_bytes(memory[0x40E:0x410], "little") << 4 == LOW_MEMORY_END
    assert int.from_bytes(memory[0x413:0x415], "little") == 639
    assert memory[0x400:0x408].hex() == "f803f802e803e802"
