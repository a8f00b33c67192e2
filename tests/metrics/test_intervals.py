"""Intervals: they cover the truth as often as they say, repeat with the seed, and hold the value."""

from __future__ import annotations

import numpy as np
import pytest
from made_answers import of_accuracy, random_answered

from luthier.core.errors import ConfigError
from luthier.metrics import intervals
from luthier.metrics.answered import Answered
from luthier.metrics.intervals import Score, scores


def test_interval_of_accuracy_covers_the_truth() -> None:
    rng = np.random.default_rng(5)
    num_covered = 0
    for trial in range(300):
        score = scores(of_accuracy(120, int(rng.binomial(120, 0.8))), keys=["accuracy"], resamples=400, seed=trial)["accuracy"]
        num_covered += score.low <= 0.8 <= score.high  # type: ignore[operator]
    assert 0.92 <= num_covered / 300 <= 0.98


def test_interval_of_accuracy_is_as_wide_as_the_binomial_says() -> None:
    score = scores(of_accuracy(500, 400), keys=["accuracy"], resamples=4000)["accuracy"]
    assert score.high - score.low == pytest.approx(2 * 1.96 * (0.8 * 0.2 / 500) ** 0.5, rel=0.08)  # type: ignore[operator]


def test_interval_of_ece_reaches_down_for_a_calibrated_model() -> None:
    rng = np.random.default_rng(2)
    yes_N = rng.random(400)
    truth_N = (rng.random(400) < yes_N).astype(int)
    calibrated = Answered(np.arange(400), np.stack([1 - yes_N, yes_N], axis=1), truth_N, ("no", "yes"))
    score = scores(calibrated, keys=["ece"])["ece"]
    assert score.low <= score.value <= score.high  # type: ignore[operator]
    assert score.low < 0.02  # type: ignore[operator]


@pytest.mark.parametrize("multi_label", [False, True])
def test_every_interval_holds_its_value(multi_label: bool) -> None:
    for score in scores(random_answered(400, 4, multi_label=multi_label, seed=8), resamples=300).values():
        assert score.value is None or score.low <= score.value <= score.high  # type: ignore[operator]


def test_seed_decides() -> None:
    answered = random_answered(60, 3, seed=1)
    assert scores(answered, resamples=100, seed=1) == scores(answered, resamples=100, seed=1)
    assert scores(answered, resamples=100, seed=1) != scores(answered, resamples=100, seed=2)


def test_chunks_do_not_change_the_kind_of_result(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = random_answered(200, 3, seed=1)
    whole = scores(answered, resamples=2000)["accuracy"]
    monkeypatch.setattr(intervals, "CHUNK", 200 * 7)
    in_parts = scores(answered, resamples=2000)["accuracy"]
    assert in_parts.resamples == 2000
    assert in_parts.low == pytest.approx(whole.low, abs=0.015)


def test_huge_sets_get_fewer_resamples_but_never_under_200(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = of_accuracy(100, 90)
    monkeypatch.setattr(intervals, "MOST_WORK", 100 * 2 * 300)
    assert scores(answered, keys=["accuracy"])["accuracy"].resamples == 300
    monkeypatch.setattr(intervals, "MOST_WORK", 1)
    assert scores(answered, keys=["accuracy"])["accuracy"].resamples == 200
    assert scores(answered, keys=["accuracy"], resamples=50)["accuracy"].resamples == 50


def test_draws_are_resamples_of_the_rows() -> None:
    counts_RN = intervals.draw(30, 500, np.random.default_rng(0))
    assert counts_RN.shape == (500, 30)
    assert (counts_RN.sum(axis=1) == 30).all()
    assert counts_RN.mean() == 1
    assert counts_RN.var(axis=0) == pytest.approx(np.full(30, 29 / 30), abs=0.3)


def test_keys_are_chosen_in_order_and_unknown_ones_named() -> None:
    answered = random_answered(30, 3)
    assert list(scores(answered, keys=["f1_macro", "accuracy"], resamples=0)) == ["f1_macro", "accuracy"]
    with pytest.raises(ConfigError, match="did you mean 'f1_macro'"):
        scores(answered, keys=["f1_makro"])


def test_no_resamples_gives_values_alone() -> None:
    score = scores(of_accuracy(10, 9), keys=["accuracy"], resamples=0)["accuracy"]
    assert score == Score(0.9)
    assert score.as_dict() == {"value": 0.9, "low": None, "high": None}
