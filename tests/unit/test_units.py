"""Sizes as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gasang.errors import ConfigError
from gasang.units import GIB, KIB, MIB, TIB, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512M", 512 * MIB),
        ("512", 512 * MIB),
        ("1g", GIB),
        ("1.5GiB", 1536 * MIB),
        ("64kb", 64 * KIB),
        ("2 TB", 2 * TIB),
        (" 7m ", 7 * MIB),
    ],
)
def test_parse_size_takes_what_people_write(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["banana", "", "M", "-1M", "1.2.3G", "12 apples", "1Q", "512B", "٣M", "0x10"]
)
def test_parse_size_refuses_what_is_no_size(text):
    with pytest.raises(ConfigError, match="is not a size: write a number and a unit, such as 512M"):
        parse_size(text)


def test_parse_size_refuses_parts_of_a_byte():
    with pytest.raises(ConfigError, match=r"'0\.0001K' is not a whole number of bytes"):
        parse_size("0.0001K")


@given(st.integers(min_value=0, max_value=1 << 50))
def test_a_formatted_size_means_the_same(size):
    text = format_size(size)
    number, _, unit = text.partition(" ")
    assert (int(number) if unit == "bytes" else parse_size(text)) == size
