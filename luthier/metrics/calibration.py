"""How far stated confidence can be believed: the pairs of (confidence, right) and their bins.

Shapes: N rows, K statements per row (1, or the number of labels for multi-label), B bins.
"""

from __future__ import annotations

import numpy as np

from luthier.metrics.answered import Answered

NUM_BINS = 15


def statements(answered: Answered) -> tuple[np.ndarray, np.ndarray]:
    """Return what the model stated and whether it was so.

    Returns:
        `confidence_NK` and `right_NK`. Single-label (K = 1): probability of the answer, and whether it is the truth.
        Multi-label (K = C): probability of every label, and whether the row has it.
    """
    if answered.multi_label:
        return answered.probabilities_NC, answered.truth
    return answered.probabilities_NC.max(axis=1, keepdims=True), answered.right_N[:, None]


def edges(num_bins: int = NUM_BINS) -> np.ndarray:
    """Return the `num_bins + 1` edges of bins of equal width over [0, 1]."""
    return np.linspace(0.0, 1.0, num_bins + 1)


def bin_of(confidence: np.ndarray, num_bins: int = NUM_BINS) -> np.ndarray:
    """Return the bin of each confidence: bin b holds `edges[b] < confidence <= edges[b + 1]`, and the first also 0."""
    return np.searchsorted(edges(num_bins)[1:-1], confidence, side="left")
