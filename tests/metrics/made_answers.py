"""Answers made for the tests: the hand-worked six rows, and random ones with ties and missing classes.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import numpy as np

from luthier.metrics.answered import Answered

SIX_ROWS = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.1, 0.7, 0.2], [0.2, 0.5, 0.3], [0.1, 0.3, 0.6], [0.6, 0.2, 0.2]])


def six() -> Answered:
    return Answered(np.arange(6), SIX_ROWS, np.array([0, 0, 1, 1, 2, 2]), ("bill", "card", "loan"))


def named(num_classes: int) -> tuple[str, ...]:
    return tuple(f"label {column}" for column in range(num_classes))


def random_answered(num_rows: int, num_classes: int, *, multi_label: bool = False, seed: int = 0, levels: int = 8) -> Answered:
    """Probabilities on a coarse grid, so that many are tied; with few rows some classes never occur."""
    rng = np.random.default_rng(seed)
    grid_NC = rng.integers(0, levels, (num_rows, num_classes)) / levels
    if multi_label:
        truth = rng.random((num_rows, num_classes)) < rng.random(num_classes)
        return Answered(np.arange(num_rows), grid_NC, truth, named(num_classes), True)
    truth_N = rng.integers(0, num_classes, num_rows)
    weights_NC = np.round(grid_NC + (truth_N[:, None] == np.arange(num_classes)) * rng.integers(0, 2), 3) + 1e-3
    return Answered(np.arange(num_rows), weights_NC / weights_NC.sum(axis=1, keepdims=True), truth_N, named(num_classes))


def of_accuracy(num_rows: int, num_right: int) -> Answered:
    """Two classes, the first `num_right` rows answered rightly."""
    truth_N = np.arange(num_rows) % 2
    answers_N = np.where(np.arange(num_rows) < num_right, truth_N, 1 - truth_N)
    yes_N = np.where(answers_N == 1, 0.8, 0.2)
    return Answered(np.arange(num_rows), np.stack([1 - yes_N, yes_N], axis=1), truth_N, ("no", "yes"))


def as_class(answered: Answered, truth: np.ndarray) -> Answered:
    """The same answers with another truth."""
    return Answered(answered.ids_N, answered.probabilities_NC, truth, answered.labels, answered.multi_label)
