"""How well spans, or the tags of single words, were found: precision, recall and F1, over all and of each type.

Shapes: N rows, K types, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from luthier.metrics.row_sums import RowSums

SCORES = ("f1", "precision", "recall", "f1_macro", "accuracy")
WORDS = 2  # columns before those of the types: right words, and all words
Unit: TypeAlias = "tuple[str, int, int]"


def found_spans(
    ids_N: np.ndarray,
    true: Sequence[Sequence[Unit]],
    predicted: Sequence[Sequence[Unit]],
    words_N2: np.ndarray,
    *,
    details: Mapping[str, Any] | None = None,
) -> RowSums:
    """Return how many spans are right: their type, where they begin and where they end are all as they should be.

    Precision, recall and F1 count the spans of all rows together (micro); `f1_macro` is the mean over the types that are there or were
    said; what is divided by nothing is 0. `accuracy` is the share of words with the right tag.

    Args:
        ids_N: Sample ids.
        true: Of each row its spans, as (type, first, end).
        predicted: Of each row the spans that were said.
        words_N2: Of each row the words with the right tag, and all words.
        details: What stands behind the scores, beside `per_class`.

    Reference: strict mode of seqeval, https://github.com/chakki-works/seqeval
    """
    kinds = sorted({kind for row in (*true, *predicted) for kind, _, _ in row})
    place = {kind: number for number, kind in enumerate(kinds)}
    counts_N3K = np.zeros((len(ids_N), 3, len(kinds)))
    for counts_3K, wanted, said in zip(counts_N3K, map(set, true), map(set, predicted), strict=True):
        for column, units in enumerate((wanted & said, said, wanted)):
            for kind, _, _ in units:
                counts_3K[column, place[kind]] += 1
    columns_NK = np.concatenate([words_N2, counts_N3K.reshape(len(ids_N), -1)], axis=1)
    per_class = class_scores(kinds, counts_N3K.sum(0))
    return RowSums(ids_N, columns_NK, partial(_of_sums, num_kinds=len(kinds)), "f1", True, {"per_class": per_class, **(details or {})})


def class_scores(kinds: Sequence[str], counts_3K: np.ndarray) -> list[dict[str, Any]]:
    """Return precision, recall, F1 and support of each type, from how many are right, were said and are true."""
    right_K, said_K, true_K = counts_3K
    columns = (_share(right_K, said_K), _share(right_K, true_K), _share(2 * right_K, said_K + true_K))
    return [
        {"label": kind, "precision": float(precision), "recall": float(recall), "f1": float(f1), "support": int(support)}
        for kind, precision, recall, f1, support in zip(kinds, *columns, true_K, strict=True)
    ]


def _of_sums(sums_RK: np.ndarray, *, num_kinds: int) -> dict[str, np.ndarray]:
    right_RK, said_RK, true_RK = sums_RK[:, WORDS:].reshape(len(sums_RK), 3, num_kinds).transpose(1, 0, 2)
    right_R, said_R, true_R = right_RK.sum(1), said_RK.sum(1), true_RK.sum(1)
    there_RK = said_RK + true_RK > 0
    return {
        "f1": _share(2 * right_R, said_R + true_R),
        "precision": _share(right_R, said_R),
        "recall": _share(right_R, true_R),
        "f1_macro": _share((_share(2 * right_RK, said_RK + true_RK) * there_RK).sum(1), there_RK.sum(1)),
        "accuracy": _share(sums_RK[:, 0], sums_RK[:, 1]),
    }


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return a part of a whole; 0 of nothing."""
    return np.divide(part, whole, out=np.zeros(np.broadcast_shapes(np.shape(part), np.shape(whole))), where=np.asarray(whole) > 0)
