"""Curves keep what matters when they are smoothed and thinned, and survive a killed or resumed run."""

from __future__ import annotations

from pathlib import Path

from made_runs import ticks

from luthier.explain.curves import score_series, series, smooth, thin
from luthier.explain.story import read_ticks


def test_thinning_keeps_spikes_and_order() -> None:
    points = [(float(step), 1.0) for step in range(5000)]
    points[3210] = (3210.0, 9.0)
    points[17] = (17.0, -9.0)
    thinned = thin(points, most=200)
    assert len(thinned) <= 200
    assert (3210.0, 9.0) in thinned and (17.0, -9.0) in thinned
    assert thinned == sorted(thinned)


def test_smoothing_keeps_a_constant_and_does_not_lag() -> None:
    assert {round(value, 9) for _, value in smooth([(float(step), 2.0) for step in range(400)])} == {2.0}
    line = smooth([(float(step), float(step)) for step in range(400)])
    assert abs(line[200][1] - 200) < 1e-6
    assert smooth([(1.0, 5.0)]) == [(1.0, 5.0)]


def test_values_that_are_not_finite_are_left_out() -> None:
    rows = [{"step": 1, "loss": None}, {"step": 2, "loss": float("nan")}, {"step": 3, "loss": 1.0}, {"step": 4}]
    assert series(rows, "loss") == [(3.0, 1.0)]
    assert score_series([{"step": 1, "scores": {"validation": {"accuracy": 0.5}}}, {"step": 2}], "accuracy") == [(1.0, 0.5)]


def test_a_resumed_step_counts_once_and_a_cut_line_is_passed_over(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    lines = ['{"event": "start"}', '{"step": 1, "loss": 3.0}', '{"step": 2, "loss": 2.0}', '{"step": 3, "lo']
    lines += ['{"event": "resume", "step": 1}', '{"step": 2, "loss": 1.5}', "7"]
    events.write_text("\n".join(lines), encoding="utf-8")
    assert [(tick["step"], tick["loss"]) for tick in read_ticks(events)] == [(1, 3.0), (2, 1.5)]
    assert read_ticks(tmp_path / "none") == []
    assert len(ticks(5)) == 5
