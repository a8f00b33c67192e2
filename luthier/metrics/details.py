"""What stands behind a score: confusions, classes, calibration bins, and the worst mistakes.

Shapes: N rows, C classes, B bins.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from luthier.metrics.answered import Answered
from luthier.metrics.calibration import NUM_BINS, bin_of, edges, statements
from luthier.metrics.intervals import affordable


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class: precision, recall and F1 (0 where there is nothing to divide by), and its number of rows."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for `metrics.json`."""
        return asdict(self)


def confusion(answered: Answered) -> list[list[int]]:
    """Return the number of rows by truth (rows) and answer (columns), for all labels in their order.

    Raises:
        ValueError: for multi-label rows, whose truths and answers have no one-to-one pairs.
    """
    from sklearn.metrics import confusion_matrix

    if answered.multi_label:
        raise ValueError("a confusion matrix needs one label per row: use per_class for multi-label")
    counts: list[list[int]] = confusion_matrix(answered.truth, answered.predictions, labels=np.arange(answered.num_classes)).tolist()
    return counts


def per_class(answered: Answered) -> list[ClassScore]:
    """Return precision, recall, F1 and number of rows of every label, in the order of the labels."""
    from sklearn.metrics import precision_recall_fscore_support

    every = [1] if answered.multi_label and answered.num_classes == 1 else np.arange(answered.num_classes)
    columns = precision_recall_fscore_support(answered.truth, answered.predictions, labels=every, average=None, zero_division=0)
    numbers = zip(answered.labels, *(column.tolist() for column in columns), strict=True)
    return [ClassScore(label, precision, recall, f1, int(support)) for label, precision, recall, f1, support in numbers]


def reliability(answered: Answered, num_bins: int = NUM_BINS) -> list[dict[str, float | int | None]]:
    """Return the bins of the calibration picture, from low to high confidence.

    Args:
        answered: The rows. Single-label: the confidence is the answer's probability; multi-label: every label's.
        num_bins: Number of bins of equal width over [0, 1].

    Returns:
        Per bin: low, high, count, and means of confidence and accuracy (None for an empty bin).
    """
    confidence, right = (array.ravel() for array in statements(answered))
    bin_index = bin_of(confidence, num_bins)
    count_B = np.bincount(bin_index, minlength=num_bins)
    sums = [np.bincount(bin_index, values, num_bins) for values in (confidence, right)]
    limits = edges(num_bins).tolist()
    bins: list[dict[str, float | int | None]] = []
    for low, high, count, stated, true in zip(limits, limits[1:], count_B.tolist(), *sums, strict=False):
        mean_confidence, accuracy = (float(stated / count), float(true / count)) if count else (None, None)
        bins.append({"low": low, "high": high, "count": count, "confidence": mean_confidence, "accuracy": accuracy})
    return bins


def worst_mistakes(answered: Answered, limit: int = 20) -> list[dict[str, Any]]:
    """Return the wrong answers, the most confident first; equally confident ones by id.

    Args:
        answered: The rows.
        limit: Number of mistakes to return at most.

    Returns:
        Per mistake: id, truth, predicted, probability (of the answer) and truth_probability. For multi-label truth and
        predicted are lists of labels, and the probabilities are those of the label it was most wrongly sure of: that it
        is there, or is not, as answered and as true.
    """
    wrong_N = np.flatnonzero(~answered.right_N)
    if answered.multi_label:
        sureness_NC = np.maximum(answered.probabilities_NC, 1 - answered.probabilities_NC)
        confidence_N = np.where(answered.predictions != answered.truth, sureness_NC, 0.0).max(axis=1)
        of_truth_N = 1 - confidence_N
    else:
        confidence_N = answered.probabilities_NC.max(axis=1)
        of_truth_N = answered.probabilities_NC[np.arange(len(answered)), answered.truth]
    order = np.lexsort((answered.ids_N[wrong_N], -confidence_N[wrong_N]))
    return [
        {
            "id": int(answered.ids_N[row]),
            "truth": _named(answered, answered.truth[row]),
            "predicted": _named(answered, answered.predictions[row]),
            "probability": float(confidence_N[row]),
            "truth_probability": float(of_truth_N[row]),
        }
        for row in wrong_N[order[:limit]]
    ]


def _named(answered: Answered, answer: np.ndarray) -> str | list[str]:
    """Return the label, or for multi-label the labels, in words."""
    if answered.multi_label:
        return [label for label, chosen in zip(answered.labels, answer, strict=True) if chosen]
    return answered.labels[int(answer)]


def details_of_classes(answered: Answered, *, resamples: int) -> dict[str, Any]:
    """Return what stands behind the scores of a classifier, for `evaluation.json`.

    Args:
        answered: The rows.
        resamples: Bootstrap resamples asked for; it is said how many were drawn.
    """
    return {
        "labels": list(answered.labels),
        "multi_label": answered.multi_label,
        "resamples": affordable(resamples, answered),
        "confusion": None if answered.multi_label else confusion(answered),
        "per_class": [entry.as_dict() for entry in per_class(answered)],
        "reliability": reliability(answered),
        "mistakes": worst_mistakes(answered),
    }
