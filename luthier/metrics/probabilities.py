"""Scores of classes as probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def softmax(scores: np.ndarray) -> np.ndarray:
    """Return the probabilities of the classes, which stand last, in float64.

    Args:
        scores: Any numbers.
    """
    exact = scores.astype(np.float64)
    powers = np.exp(exact - exact.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def mean_as_scores(each: Sequence[np.ndarray]) -> np.ndarray:
    """Return scores whose softmax is the mean of the probabilities that several models give.

    Args:
        each: The scores of each model, the classes last, all of one shape.
    """
    mean = np.mean([softmax(scores) for scores in each], axis=0)
    return np.asarray(np.log(np.maximum(mean, np.finfo(np.float64).tiny)))
