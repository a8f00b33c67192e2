"""The untuned baselines."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.metrics.baseline import majority, nearest_centroid


def test_majority_answers_with_the_shares_of_training() -> None:
    assert majority(np.array([0, 2, 2, 2]), 2, 4).tolist() == [[0.25, 0.0, 0.75, 0.0]] * 2
    assert majority(np.array([[1, 0], [1, 1]], dtype=bool), 1, 2).tolist() == [[1.0, 0.5]]


def test_nearest_centroid_finds_planted_directions() -> None:
    rng = np.random.default_rng(0)
    directions_CH = np.eye(4, 16)
    truth_N, truth_M = rng.integers(0, 4, 80), rng.integers(0, 4, 50)
    train_NH, test_MH = (directions_CH[truth] * 3 + rng.normal(size=(len(truth), 16)) * 0.3 for truth in (truth_N, truth_M))
    probabilities_MC = nearest_centroid(train_NH, truth_N, test_MH, 4)
    assert (probabilities_MC.argmax(axis=1) == truth_M).all()
    assert probabilities_MC.sum(axis=1) == pytest.approx(np.ones(50))
    softer_MC = nearest_centroid(train_NH, truth_N, test_MH, 4, temperature=1.0)
    assert softer_MC.max() < probabilities_MC.max()


def test_a_class_without_training_rows_is_never_answered() -> None:
    probabilities_MC = nearest_centroid(np.eye(2), np.array([0, 2]), np.array([[1.0, 0.2], [0.0, 0.0]]), 3)
    assert np.isfinite(probabilities_MC).all()
    assert probabilities_MC[:, 1].tolist() == [0.0, 0.0]
