"""Loss, perplexity and token accuracy are those of all tokens together, whatever rows they stand in; two models are compared in pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.metrics.likelihoods import SCORES, Likelihoods


def made(num_rows: int, seed: int = 0, *, shift: float = 0.0) -> Likelihoods:
    """Rows of 1 to 30 tokens of about 2 nats each, and `shift` more."""
    rng = np.random.default_rng(seed)
    tokens_N = rng.integers(1, 31, num_rows)
    nats_N = np.array([rng.exponential(2.0, count).sum() for count in tokens_N]) + shift * tokens_N
    return Likelihoods(np.arange(num_rows), nats_N, tokens_N, rng.binomial(tokens_N, 0.4))


def test_scores_worked_by_hand() -> None:
    found = Likelihoods(np.array([7, 8]), np.array([3.0, 1.0]), np.array([3, 1]), np.array([1, 1]))
    values = {key: score.value for key, score in found.scores(resamples=0).items()}
    assert values == {"loss": 1.0, "perplexity": pytest.approx(np.e), "token_accuracy": 0.5}


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(0, 1000))
def test_the_interval_holds_the_value_and_its_middle_is_the_point(num_rows: int, seed: int) -> None:
    scores = made(num_rows, seed).scores(resamples=400)
    assert tuple(scores) == SCORES
    for score in scores.values():
        assert score.value is not None and score.low is not None and score.high is not None and score.low <= score.high
    assert scores["perplexity"].low == pytest.approx(np.exp(scores["loss"].low), rel=1e-2)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        loss = made(60, seed).scores(keys=["loss"], resamples=300, confidence=0.9)["loss"]
        covered += loss.low <= 2.0 <= loss.high  # type: ignore[operator]
    assert 0.82 <= covered / 200 <= 0.96


def test_a_difference_is_shown_where_there_is_one() -> None:
    base, rng = made(80), np.random.default_rng(1)
    noise = rng.normal(0, 0.2, 80) * base.tokens_N
    better = Likelihoods(base.ids_N, base.nats_N - 0.2 * base.tokens_N + noise, base.tokens_N, base.right_N)
    same = Likelihoods(base.ids_N, base.nats_N + noise - noise.mean(), base.tokens_N, base.right_N)
    assert better.compared_with(base)["verdict"] == "better" and base.compared_with(better)["verdict"] == "worse"
    assert same.compared_with(base)["verdict"] == "no difference shown"
    shuffled = better.select(rng.permutation(80))
    assert shuffled.compared_with(base) == pytest.approx(better.compared_with(base))


def test_other_rows_are_not_compared() -> None:
    with pytest.raises(ValueError, match="different rows"):
        made(11).compared_with(made(10))
