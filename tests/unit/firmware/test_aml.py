"""Encodings of AML terms, against the examples and limits of the specification."""

import pytest

from gasang.firmware import aml


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        (0, "00"),
        (1, "01"),
        (2, "0a02"),
        (0xFF, "0aff"),
        (0x100, "0b0001"),
        (0x10000, "0c00000100"),
        (1 << 32, "0e0000000001000000"),
    ],
)
def test_integers_take_the_shortest_encoding(value, encoding):
    assert aml.integer(value).hex() == encoding


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_integers_beyond_64_bits_are_refused(value):
    with pytest.raises(ValueError, match="64-bit"):
        aml.integer(value)


@pytest.mark.parametrize(
    ("path", "encoding"),
    [
        ("_CRS", b"_CRS"),
        ("RTC", b"RTC_"),
        ("\\_S5", b"\\_S5_"),
        ("\\_SB.PCI0", b"\\\x2e_SB_PCI0"),
        ("\\_SB.PCI0.ISA", b"\\\x2f\x03_SB_PCI0ISA_"),
    ],
)
def test_names_have_segments_of_four(path, encoding):
    assert aml.name_string(path) == encoding


def test_long_name_segments_are_refused():
    with pytest.raises(ValueError, match="SERIAL"):
        aml.name_string("SERIAL")


def test_eisa_id_of_a_serial_port():
    assert aml.eisa_id("PNP0501").hex() == "0c41d00501"


@pytest.mark.parametrize("content", [0, 1, 61, 62, 63, 4000, 4093, 4094, 70000])
def test_package_length_counts_itself(content):
    term = aml.scope("AAAA", bytes(content))
    following = term[1] >> 6
    length = term[1] & (0xF if following else 0x3F) | int.from_bytes(term[2 : 2 + following], "little") << 4
    assert length == len(term) - 1
    assert len(term) == 1 + 1 + following + 4 + content


def test_resource_template_ends_in_an_end_tag():
    assert aml.resource_template(aml.interrupt(4)).hex() == "1108" + "0a05" + "221000" + "7900"
