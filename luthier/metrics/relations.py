"""How many relations between two entities are right: the official score of SemEval-2010 task 8, and plain ones.

Shapes: N rows, R resamples, L relations without their directions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from luthier.metrics.row_sums import RowSums

SCORES = ("macro_f1", "micro_f1", "accuracy")
PRIMARY = "macro_f1"
DIRECTION = re.compile(r"\((?:e1,e2|e2,e1)\)$")
NONE_NAMES = ("other", "no_relation", "no relation", "na", "n/a", "none", "unknown", "无", "无关系", "其他")


def without_direction(label: str) -> str:
    """Return the name of a relation without `(e1,e2)` or `(e2,e1)` at its end."""
    return DIRECTION.sub("", label)


def no_relation_among(labels: Sequence[str]) -> str | None:
    """Return the label that stands for no relation by its usual name, or None."""
    return next((label for label in labels if label.strip().lower() in NONE_NAMES), None)


def compared_relations(
    ids_N: np.ndarray,
    truth: Sequence[str],
    predicted: Sequence[str],
    *,
    no_relation: str | None,
    mistakes: Sequence[Mapping[str, Any]] = (),
) -> RowSums:
    """Return the scores of predicted relations.

    `macro_f1` is the official score of SemEval-2010 task 8: F1 of each relation, both directions together, where an answer is right only
    if its direction is; the mean over the relations that are among the true ones, no relation left out. `micro_f1` is of the same counts,
    summed over those relations. `accuracy` is over all rows and labels.

    Args:
        ids_N: Sample ids.
        truth: The true labels.
        predicted: The predicted ones.
        no_relation: Label of rows without a relation, which no F1 is of; None: there is none.
        mistakes: What is shown of wrong rows.

    Reference: I. Hendrickx and others, SemEval-2010 Task 8, https://aclanthology.org/S10-1006; its scorer, version 1.2,
        `(9+1)-way evaluation taking directionality into account`.
    """
    names = sorted({without_direction(label) for label in [*truth, *predicted] if label != no_relation})
    place = {name: index for index, name in enumerate(names)}
    counts_NL3 = np.zeros((len(truth), len(names), 3))  # right, answered, true
    right_N = np.array([true == said for true, said in zip(truth, predicted, strict=True)], np.float64)
    for row, (true, said) in enumerate(zip(truth, predicted, strict=True)):
        for kind, label in ((1, said), (2, true)):
            if label != no_relation:
                counts_NL3[row, place[without_direction(label)], kind] = 1
        if true == said != no_relation:
            counts_NL3[row, place[without_direction(true)], 0] = 1
    columns_NK = np.concatenate([np.ones((len(truth), 1)), right_N[:, None], counts_NL3.reshape(len(truth), 3 * len(names))], axis=1)
    sums_L3 = counts_NL3.sum(0)
    per_class = [_class(name, *counts) for name, counts in zip(names, sums_L3.tolist(), strict=True)]
    return RowSums(ids_N, columns_NK, _of_sums, PRIMARY, True, {"per_class": per_class, "mistakes": list(mistakes)})


def _of_sums(sums_RK: np.ndarray) -> dict[str, np.ndarray]:
    number_R, right_R = sums_RK[:, :2].T
    hits_RL, said_RL, true_RL = np.moveaxis(sums_RK[:, 2:].reshape(len(sums_RK), (sums_RK.shape[1] - 2) // 3, 3), 2, 0)
    counted_RL = true_RL > 0
    f1_RL = np.divide(2 * hits_RL, said_RL + true_RL, out=np.zeros_like(hits_RL), where=counted_RL)
    relations_R = counted_RL.sum(1)
    both_R = ((said_RL + true_RL) * counted_RL).sum(1)
    return {
        "macro_f1": _ratio(f1_RL.sum(1), relations_R),
        "micro_f1": _ratio(2 * hits_RL.sum(1), both_R),
        "accuracy": right_R / number_R,
    }


def _ratio(above_R: np.ndarray, below_R: np.ndarray) -> np.ndarray:
    """Divide; not a number where no row has a relation."""
    return np.divide(above_R, below_R, out=np.full(len(above_R), np.nan), where=below_R > 0)


def _class(label: str, right: float, said: float, true: float) -> dict[str, Any]:
    scores = {"precision": right / said if said else 0.0, "recall": right / true if true else 0.0}
    return {"label": label, **scores, "f1": 2 * right / (said + true), "support": int(true)}
