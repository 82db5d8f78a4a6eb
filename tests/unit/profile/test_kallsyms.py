"""Symbols out of a kernel's own tables."""

import pytest
from images import BASE, kallsyms

from gasang.profile.kallsyms import read

SYMBOLS = [(BASE + 16 * number, "tT"[number % 2], f"function_{number}") for number in range(1000)]
LAYOUTS = [
    {"since_6_4": since_6_4, "numbering": numbering}
    for since_6_4 in (False, True)
    for numbering in (False, True)
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_layout_is_read(layout):
    assert read(kallsyms(SYMBOLS, **layout)) == [(address, name) for address, _, name in SYMBOLS]


def test_tokens_stand_for_several_characters():
    symbols = [*SYMBOLS[:300], (BASE + 0x10000, "T", "very_long_prefix_of_a_function")]
    assert read(kallsyms(symbols))[-1] == (BASE + 0x10000, "very_long_prefix_of_a_function")


def test_a_name_may_be_longer_than_127_tokens():
    symbols = [(BASE, "t", "x" * 300), *SYMBOLS[1:300]]
    assert read(kallsyms(symbols))[0] == (BASE, "x" * 300)


def test_per_processor_offsets_are_absolute_and_no_code():
    symbols = [(0x1000, "D", "current_task"), *SYMBOLS[:300]]
    assert read(kallsyms(symbols, per_cpu=True)) == [(address, name) for address, _, name in SYMBOLS[:300]]


def test_data_is_left_out():
    symbols = [*SYMBOLS[:300], (BASE + 0x20000, "D", "jiffies")]
    assert "jiffies" not in dict(map(reversed, read(kallsyms(symbols))))


@pytest.mark.parametrize("image", [b"", bytes(10000), b"".join(bytes([code, 0]) for code in range(256)) * 3])
def test_an_image_without_tables_has_no_symbols(image):
    assert read(image) == []


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.7, 0.9])
def test_a_damaged_image_has_no_symbols_or_those_it_has(cut):
    image = kallsyms(SYMBOLS)
    found = read(image[: int(len(image) * cut)])
    assert set(found) <= {(address, name) for address, _, name in SYMBOLS}
