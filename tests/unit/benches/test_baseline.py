"""Comparing with the baseline, and keeping findings."""

import baseline
import record
from baseline import TOLERANCE, Baseline, processor_model
from comparison import Comparison
from figures import Figure
from request import Findings
from rows import Bar


def figure(*samples):
    return Figure.of("row", "x", samples)


def test_worse_is_what_exceeds_the_tolerance_in_every_round():
    earlier = Baseline("2026-01-01", processor_model(), {"row": 2.0})
    worse = figure(2.0 * TOLERANCE * 1.01, 6.0, 7.0)
    assert earlier.worse([worse]) == [(worse, 3.0)]
    assert earlier.worse([figure(2.0 * TOLERANCE * 0.99, 6.0, 7.0)]) == []
    assert earlier.worse([figure(0.1)]) == []


def test_a_new_figure_and_another_processor_are_not_compared():
    assert Baseline("2026-01-01", processor_model(), {"other": 1.0}).worse([figure(9.0)]) == []
    assert Baseline("2026-01-01", "another", {"row": 1.0}).worse([figure(9.0)]) == []


def test_saved_figures_join_those_of_the_same_processor(tmp_path, monkeypatch):
    monkeypatch.setattr(baseline, "FILE", tmp_path / "baseline.json")
    assert Baseline.load().medians == {}
    Baseline("2026-01-01", processor_model(), {"row": 2.0, "kept": 1.0}).with_figures(
        [figure(3.00004)]
    ).save()
    loaded = Baseline.load()
    assert loaded.medians == {"row": 3.0, "kept": 1.0}
    assert loaded.comparable
    assert Baseline("2026-01-01", "another", {"kept": 1.0}).with_figures([figure(3.0)]).medians == {
        "row": 3.0
    }


def test_findings_come_back_from_their_file(tmp_path):
    findings = Findings(
        [
            Comparison.of("row", "set", {"native": [1.0, 2.0], "gasang": [3.0, 4.0]}, Bar(2.0, None)),
            Comparison.of("other", "set", {"qemu": [1.0], "gasang": [3.0]}, Bar()),
        ],
        [figure(4.5)],
        ["why"],
    )
    record.save(findings, tmp_path / "out" / "file.json")
    assert record.load(tmp_path / "out" / "file.json") == findings
