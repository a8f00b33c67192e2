"""Counts behind precision, recall, F1 and MCC, for many resamples at once, and the averages over classes.

Shapes: N rows, C classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from luthier.metrics.answered import Answered
from luthier.metrics.metric import Values

AVERAGES = ("macro", "micro", "weighted")


class Tally(NamedTuple):
    """Counts of rows per class and resample.

    Args:
        hits_CR: Rows of the class that were answered with it.
        truth_CR: Rows of the class.
        predicted_CR: Rows answered with the class.
        present_CR: Whether the class enters a macro average: scikit-learn leaves out a class that neither occurs nor is
            answered, but keeps every label of multi-label rows.
    """

    hits_CR: np.ndarray
    truth_CR: np.ndarray
    predicted_CR: np.ndarray
    present_CR: np.ndarray


def tally(answered: Answered, counts_RN: np.ndarray) -> Tally:
    """Count hits, truths and answers of each class in each resample.

    Args:
        answered: The rows.
        counts_RN: How often each row was drawn in each resample.
    """
    from scipy.sparse import csr_array

    counts_NR = np.ascontiguousarray(counts_RN.T)
    truth_NC, predicted_NC = answered.truth_NC, answered.predictions_NC
    hits_CR, truth_CR, predicted_CR = (
        csr_array(member_NC.T, dtype=np.float64) @ counts_NR for member_NC in (truth_NC & predicted_NC, truth_NC, predicted_NC)
    )
    present_CR = np.full(truth_CR.shape, True) if answered.multi_label else truth_CR + predicted_CR > 0
    return Tally(hits_CR, truth_CR, predicted_CR, present_CR)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide, with 0 where there is nothing to divide by (`zero_division=0` of scikit-learn)."""
    return np.asarray(np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0))


def averages(name: str, numerator_CR: np.ndarray, denominator_CR: np.ndarray, counted: Tally) -> dict[str, np.ndarray]:
    """Average a ratio of counts over the classes in the three ways of scikit-learn.

    Args:
        name: Start of the keys, such as `f1`.
        numerator_CR: Counts above the line.
        denominator_CR: Counts below the line.
        counted: The tally that the counts are from.

    Returns:
        `{name}_macro` (mean over the classes), `{name}_micro` (ratio of the sums) and `{name}_weighted` (mean weighted
        by the rows of each class), each `(R,)`.
    """
    each_CR = ratio(numerator_CR, denominator_CR)
    macro_R = ratio((each_CR * counted.present_CR).sum(axis=0), counted.present_CR.sum(axis=0))
    micro_R = ratio(numerator_CR.sum(axis=0), denominator_CR.sum(axis=0))
    weighted_R = ratio((each_CR * counted.truth_CR).sum(axis=0), counted.truth_CR.sum(axis=0))
    return dict(zip(keys(name), (macro_R, micro_R, weighted_R), strict=True))


def keys(name: str) -> tuple[str, ...]:
    """Return the score keys of a metric that is averaged over classes."""
    return tuple(f"{name}_{average}" for average in AVERAGES)


def by_sklearn(name: str, function: Callable[..., float], answered: Answered) -> Values:
    """Return the averages that a scikit-learn function such as `f1_score` gives, by score key."""
    # a single column of flags looks binary to scikit-learn, which would score its absence as a class too
    labels = [1] if answered.multi_label and answered.num_classes == 1 else None
    return {
        key: float(function(answered.truth, answered.predictions, labels=labels, average=average, zero_division=0))
        for key, average in zip(keys(name), AVERAGES, strict=True)
    }
