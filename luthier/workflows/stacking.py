"""Stacking: a logistic regression that learns from held-out rows how much each of several models is to be believed.

Shapes: M models, N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from luthier.metrics.answered import Answered
from luthier.serve.combining import Stack, as_probabilities, evidence

PULL = 1.0  # towards equal weights and no offsets, in rows: with few rows the stack is close to the mean of the logarithms


def fit_stack(singles: Sequence[Answered]) -> Stack:
    """Fit the weights of several models to rows that none of them was trained on.

    Args:
        singles: Answers of each model, for the same ids in the same order.
    """
    from scipy.optimize import minimize

    first = singles[0]
    evidence_MNC = evidence(np.array([one.probabilities_NC for one in singles]), multi_label=first.multi_label)
    truth_NC = first.truth_NC.astype(np.float64)
    models = len(singles)
    start = np.concatenate([np.full(models, 1 / models), np.zeros(first.num_classes)])

    def cost(values: np.ndarray) -> tuple[float, np.ndarray]:
        scores_NC = Stack(tuple(values[:models]), tuple(values[models:])).scores(evidence_MNC)
        wrong_NC = as_probabilities(scores_NC, multi_label=first.multi_label) - truth_NC
        slope = np.concatenate([np.tensordot(evidence_MNC, wrong_NC, axes=2), wrong_NC.sum(axis=0)])
        away = values - start
        return _nats(scores_NC, truth_NC, first.multi_label) + PULL / 2 * float(away @ away), slope + PULL * away

    found = minimize(cost, start, jac=True, method="L-BFGS-B")
    return Stack(tuple(map(float, found.x[:models])), tuple(map(float, found.x[models:])))


def _nats(scores_NC: np.ndarray, truth_NC: np.ndarray, multi_label: bool) -> float:
    """Return the negative log-likelihood of the truth, summed."""
    from scipy.special import logsumexp

    if multi_label:
        return float((np.logaddexp(0, scores_NC) - truth_NC * scores_NC).sum())
    return float((logsumexp(scores_NC, axis=1) - (truth_NC * scores_NC).sum(axis=1)).sum())
