"""Scores of classes as probabilities."""

from __future__ import annotations

import numpy as np


def softmax(scores: np.ndarray) -> np.ndarray:
    """Return the probabilities of the classes, which stand last, in float64.

    Args:
        scores: Any numbers.
    """
    exact = scores.astype(np.float64)
    powers = np.exp(exact - exact.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
