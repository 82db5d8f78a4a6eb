"""Profiles out of what the engine measured."""

import json
from types import SimpleNamespace

import pytest

from gasang.profile import as_json, as_text, profile
from gasang.profile.measured import Executed, Exit, Instruction, Phase, Place
from gasang.profile.symbols import Symbol, Symbols

SYMBOLS = Symbols([Symbol(0x1000, 0x1100, "main"), Symbol(0x1100, 0x1200, "work")])


def measurements(**changes):
    return SimpleNamespace(
        **{
            "phases": {"code": (10, 3_000_000_000), "interpret": (5, 1_000_000_000), "fault": (0, 0)},
            "interpreted": [(0x1000, "CPUID", 3, 600_000_000), (0x1110, "CPUID", 2, 400_000_000)],
            "samples": [
                (0x1000, "code", 60),
                (0x1010, "interpret", 20),
                (0x1100, "link", 15),
                (0x5123, "code", 4),
            ],
            "exits": [("exits_pio_read", 0x71, 7, 2000)],
            "lost": 0,
            **changes,
        }
    )


@pytest.fixture
def of_two():
    """The profile of two processors that did the same."""
    return profile([measurements(), measurements()], {"instructions": 1234567}, SYMBOLS)


def test_processors_add_up(of_two):
    assert (of_two.processors, of_two.seconds) == (2, 8.0)
    assert of_two.phases == (Phase("code", 20, 6.0), Phase("interpret", 10, 2.0), Phase("fault", 0, 0.0))
    assert of_two.exits == (Exit("pio_read", 0x71, 14, 4e-6),)


def test_samples_are_of_symbols_and_of_pages_where_there_are_none(of_two):
    assert of_two.symbols == (
        Place("main", 120, 40, 0),
        Place("work", 0, 0, 30),
        Place("0x5000 (page)", 8, 0, 0),
    )
    assert [place.samples for place in of_two.symbols] == [160, 30, 8]


def test_blocks_are_told_apart_within_a_symbol(of_two):
    assert [place.name for place in of_two.blocks] == ["main", "main+0x10", "work", "0x5123"]


def test_instructions_are_by_form_and_by_place(of_two):
    assert of_two.forms == (Instruction("", "CPUID", 10, 2.0),)
    assert of_two.instructions == (
        Instruction("main", "CPUID", 6, 1.2),
        Instruction("work+0x10", "CPUID", 4, 0.8),
    )


def test_executions_are_counted_by_symbol_and_by_block():
    executions = [(0x1000, 10, 50), (0x1010, 2, 4), (0x1100, 100, 100), (0x1000, 1, 5)]
    found = profile([measurements()], {}, SYMBOLS, executions)
    assert found.executed_symbols == (Executed("work", 100, 100), Executed("main", 13, 59))
    assert [each.name for each in found.executed_blocks] == ["work", "main", "main+0x10"]
    assert any(line.split() == ["work", "62.9", "%", "100", "100"] for line in as_text(found).splitlines())


def test_json_has_all_of_it(of_two):
    found = json.loads(as_json(of_two))
    assert found["seconds"] == 8.0
    assert found["symbols"][0] == {"name": "main", "translated": 120, "interpreted": 40, "engine": 0}
    assert found["counters"] == {"instructions": 1234567}


def test_text_has_shares(of_two):
    lines = as_text(of_two).splitlines()
    assert lines[0] == "profile of 2 processors: 8.00 s, 1,234,567 instructions"
    assert "translated code (T1)            75.0 %     6.000           20 300,000,000" in lines
    assert not any("host fault" in line for line in lines), "nothing that never happened"
    row = next(line.split() for line in lines if line.startswith("work "))
    assert row == ["work", "15.2", "%", "0.0", "%", "0.0", "%", "15.2", "%"]
    assert any(line.split()[:2] == ["instructions", "1,234,567"] for line in lines)


def test_long_tables_are_cut():
    many = measurements(samples=[(0x10000 * number, "code", 1) for number in range(1, 31)])
    assert "  and 10 more" in as_text(profile([many], {}, SYMBOLS)).splitlines()


def test_nothing_measured_is_no_error():
    nothing = measurements(phases={}, interpreted=[], samples=[], exits=[])
    assert as_text(profile([nothing], {}, Symbols())).startswith(
        "profile of 1 processor: 0.00 s, 0 instructions"
    )
