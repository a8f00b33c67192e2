"""AUROC: how often a row of a class scores above a row that is not of it.

Shapes: N rows, C classes, R resamples, U distinct scores, K of them with positive rows.
"""

from __future__ import annotations

from typing import final

import numpy as np

from luthier.metrics import metrics
from luthier.metrics.answered import Answered
from luthier.metrics.metric import Metric, Values, Worked
from luthier.metrics.tally import ratio


@final
@metrics.add
class Auroc(Metric):
    """Area under the ROC curve.

    Two classes: the positive one is `labels[1]`. More classes, or multi-label: mean over one-against-the-rest, over the
    classes that some rows are of and some are not. Undefined where there is no such class.

    Reference: J. Hanley and B. McNeil, The meaning and use of the area under a ROC curve, 1982.
    """

    keys = ("auroc",)

    def values(self, answered: Answered) -> Values:
        """Return the (mean) area."""
        from sklearn.metrics import roc_auc_score

        truth_NC, probabilities_NC = answered.truth_NC, answered.probabilities_NC
        areas = [roc_auc_score(truth_NC[:, column], probabilities_NC[:, column]) for column in _columns(answered)]
        return {"auroc": float(np.mean(areas)) if areas else None}

    def resampled(self, answered: Answered, counts_RN: np.ndarray) -> dict[str, np.ndarray]:
        """Return the (mean) area of each resample, over the classes that the resample has."""
        counts_NR = np.ascontiguousarray(counts_RN.T)
        truth_NC, probabilities_NC = answered.truth_NC, answered.probabilities_NC
        total_R, num_defined_R = np.zeros(len(counts_RN)), np.zeros(len(counts_RN))
        for column in _columns(answered):
            area_R, defined_R = resampled_area(truth_NC[:, column], probabilities_NC[:, column], counts_NR)
            total_R += area_R
            num_defined_R += defined_R
        return {"auroc": np.where(num_defined_R > 0, ratio(total_R, num_defined_R), np.nan)}

    @classmethod
    def example(cls) -> Worked:
        """Of the four pairs (yes, no), two are in order, one is tied, one is not: (2 + 1/2) / 4."""
        yes_N = np.array([0.4, 0.8, 0.8, 0.5])
        answered = Answered(np.arange(4), np.stack([1 - yes_N, yes_N], axis=1), np.array([0, 0, 1, 1]), ("no", "yes"))
        return Worked(cls(), answered, {"auroc": 2.5 / 4})


def _columns(answered: Answered) -> list[int]:
    """Return the classes with an area: some rows are of them, and some are not."""
    num_of_class_C = answered.truth_NC.sum(axis=0)
    defined_C = (num_of_class_C > 0) & (num_of_class_C < len(answered))
    if not answered.multi_label and answered.num_classes == 2:
        defined_C[0] = False
    return [int(column) for column in np.flatnonzero(defined_C)]


def resampled_area(positive_N: np.ndarray, score_N: np.ndarray, counts_NR: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the area under the ROC curve of one class in each resample.

    The area is the share of pairs (positive, negative) in the right order, a tie counting half. The negatives are counted
    between the distinct scores of the positives, so that one sort serves every resample.

    Args:
        positive_N: Whether a row is of the class; some are, some are not.
        score_N: Its score.
        counts_NR: How often each row was drawn in each resample.

    Returns:
        `area_R`, 0 where undefined, and `defined_R`: whether positives and negatives were drawn.
    """
    scores_U, rank_N = np.unique(score_N, return_inverse=True)
    is_level_U = np.bincount(rank_N[positive_N], minlength=len(scores_U)) > 0
    # place 2k + 1: equal to level k of the positives; places 0, 2, 4 ...: below, between and above the levels
    place_N = (2 * np.cumsum(is_level_U) - is_level_U)[rank_N]
    num_places = 2 * int(is_level_U.sum()) + 1
    positives = _sums(place_N, np.flatnonzero(positive_N), num_places, counts_NR)[1::2]
    negatives = _sums(place_N, np.flatnonzero(~positive_N), num_places, counts_NR)
    below_KR = np.cumsum(negatives, axis=0)[:-1:2] + negatives[1::2] / 2
    num_pairs_R = positives.sum(axis=0) * negatives.sum(axis=0)
    return ratio(np.einsum("kr,kr->r", positives, below_KR), num_pairs_R), num_pairs_R > 0


def _sums(place_N: np.ndarray, rows: np.ndarray, num_places: int, counts_NR: np.ndarray) -> np.ndarray:
    """Sum the counts of the given rows by place: `(num_places, R)`."""
    from scipy.sparse import csr_array

    chosen = csr_array((np.ones(len(rows)), (place_N[rows], rows)), shape=(num_places, len(place_N)))
    return np.asarray(chosen @ counts_NR)
