"""Ratios, means, bars and the table, from times that are made up."""

import pytest
from comparison import Comparison, means
from figures import Figure, Spread
from rows import SETS, Bar
from table import table

TIMES = {"native": [1.0, 2.0, 1.0], "gasang": [2.0, 5.0, 3.0], "qemu": [20.0, 20.0, 12.0]}


def test_ratios_are_taken_round_by_round():
    row = Comparison.of("row", "set", TIMES, Bar())
    assert row.native == Spread(1.0, 1.0, 2.0)
    assert row.ours_over_native == Spread(2.5, 2.0, 3.0)
    assert row.qemu_over_native == Spread(12.0, 10.0, 20.0)
    assert row.qemu_over_ours == Spread(4.0, 4.0, 10.0)


@pytest.mark.parametrize(
    ("absent", "known"),
    [
        ("native", {"qemu_over_ours"}),
        ("gasang", {"native", "qemu_over_native"}),
        ("qemu", {"native", "ours_over_native"}),
    ],
)
def test_a_peer_that_did_not_run_leaves_its_ratios_out(absent, known):
    row = Comparison.of("row", "set", {peer: TIMES[peer] for peer in TIMES if peer != absent}, Bar(0.1, 100))
    names = ("native", "ours_over_native", "qemu_over_native", "qemu_over_ours")
    assert {name for name in names if getattr(row, name) is not None} == known
    assert row.missed() == {"native": ["qemu"], "gasang": [], "qemu": ["native"]}[absent]


@pytest.mark.parametrize(
    ("bar", "missed"),
    [
        (Bar(), []),
        (Bar(2.5, 4.0), []),
        (Bar(2.4, 4.0), ["native"]),
        (Bar(2.5, 4.1), ["qemu"]),
        (Bar(qemu=5.0), ["qemu"]),
        (Bar(1.0, 5.0), ["native", "qemu"]),
    ],
)
def test_bars_are_of_medians(bar, missed):
    assert Comparison.of("row", "set", TIMES, bar).missed() == missed


def test_a_baseline_holds_ratios_of_which_less_is_better():
    row = Comparison.of("row", "set", TIMES, Bar())
    assert row.figures() == [
        Figure("row: gasang / native", "x", Spread(2.5, 2.0, 3.0)),
        Figure("row: gasang / qemu", "x", Spread(0.25, 0.1, 0.25)),
    ]


def times_of_all(ours, qemu):
    """Rows that all take the same times, but for the first of each set, which native does at once."""
    return {
        kind: {
            name: {"native": [1.0], "gasang": [ours], "qemu": [qemu]} if place else TIMES_OF_FIRST
            for place, name in enumerate(rows)
        }
        for kind, rows in SETS.items()
    }


TIMES_OF_FIRST = {"native": [1.0], "gasang": [1.0]}


def test_means_are_geometric_and_over_the_rows_that_both_ran():
    found = {mean.name: mean for mean in means(times_of_all(ours=8.0, qemu=32.0))}
    assert list(found) == [*(f"mean: {kind}" for kind in SETS), "mean: all rows"]
    rows_in_code = len(SETS["code"])
    expected = 8.0 ** ((rows_in_code - 1) / rows_in_code)
    assert found["mean: code"].ours_over_native.median == pytest.approx(expected)
    assert found["mean: code"].qemu_over_ours.median == pytest.approx(4.0)
    assert found["mean: all rows"].missed() == ["native", "qemu"]


def test_a_set_that_was_not_measured_whole_has_no_mean():
    times = times_of_all(ours=2.0, qemu=4.0)
    del times["code"]["flip"]
    names = [mean.name for mean in means(times)]
    assert "mean: code" not in names
    assert "mean: all rows" not in names
    assert "mean: system" in names


def test_the_table_tells_medians_spreads_and_what_is_missed():
    lines = table(
        [
            Comparison.of("fast", "set", TIMES, Bar(2.5, 4.0)),
            Comparison.of("slow", "set", TIMES, Bar(qemu=1000)),
            Comparison.of("alone", "set", {"gasang": [1.0]}, Bar(qemu=1)),
        ]
    ).splitlines()
    assert lines[1].split() == [
        "fast", "1000.0", "ms", "2.5", "(2-3)", "12", "(10-20)", "4", "(4-10)",
        "<=", "2.5", "native,", ">=", "4", "QEMU", "met",
    ]  # fmt: skip
    assert lines[2].split()[-5:] == [">=", "1000", "QEMU", "MISSED", "(qemu)"]
    assert lines[3].split() == ["alone", ">=", "1", "QEMU"]
