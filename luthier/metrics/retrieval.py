"""How well first texts find their second texts among all of a split, by cosine.

Shapes: N rows (queries), D documents, H width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from luthier.metrics.row_sums import RowSums

SCORES = ("recall@1", "recall@10", "mrr@10", "ndcg@10")
DEEPEST = 10
AT_ONCE = 4_000_000  # cosines held at once: 16 MB
MOST_MISTAKES = 20


def found_among(ids_N: np.ndarray, queries_NH: np.ndarray, documents_NH: np.ndarray, keys_N2: np.ndarray, *, primary: str) -> RowSums:
    """Return how high the right documents of each query stand; the corpus is every different document once.

    Right are the documents of all rows with the same query. Of equal cosines the document that comes first in the rows wins.

    Args:
        ids_N: Sample ids.
        queries_NH: Vectors of the first texts.
        documents_NH: Vectors of the second texts.
        keys_N2: Numbers of the first and second text; equal texts have equal numbers.
        primary: The score that two models are compared by.
    """
    _, kept_D, document_N = np.unique(keys_N2[:, 1], return_index=True, return_inverse=True)
    order_D = np.argsort(kept_D)
    place_D = np.argsort(order_D)
    right = _right_documents(keys_N2[:, 0], place_D[document_N.ravel()])
    corpus_DH, queries_NH = _units(documents_NH[kept_D[order_D]]), _units(queries_NH)
    lines, worst = [], []
    size = max(1, AT_ONCE // len(corpus_DH))
    for start in range(0, len(queries_NH), size):
        cosines_BD = queries_NH[start : start + size] @ corpus_DH.T
        for row, cosines_D in enumerate(cosines_BD, start=start):
            wanted = right[int(keys_N2[row, 0])]
            lines.append(_line(_top(cosines_D), wanted))
            worst.append(int((cosines_D > cosines_D[wanted].max()).sum()) + 1)
    columns_NK = np.column_stack([np.ones(len(lines)), np.array(lines)])
    return RowSums(ids_N, columns_NK, _means, primary, True, _details(ids_N, np.array(worst), len(corpus_DH)))


def _right_documents(query_N: np.ndarray, document_N: np.ndarray) -> dict[int, np.ndarray]:
    """Return the documents of each query, by its number."""
    pairs = np.unique(np.column_stack([query_N, document_N]), axis=0)
    numbers, starts = np.unique(pairs[:, 0], return_index=True)
    return dict(zip(numbers.tolist(), np.split(pairs[:, 1], starts[1:]), strict=True))


def _top(cosines_D: np.ndarray) -> np.ndarray:
    """Return the places of the highest cosines, the highest first."""
    if len(cosines_D) <= DEEPEST:
        return np.argsort(-cosines_D, kind="stable")
    least = np.partition(cosines_D, -DEEPEST)[-DEEPEST]
    reached = np.flatnonzero(cosines_D >= least)  # ascending, so that a stable order keeps the first of equals
    return reached[np.argsort(-cosines_D[reached], kind="stable")][:DEEPEST]


def _line(top: np.ndarray, wanted: np.ndarray) -> list[float]:
    """Return the four scores of one query."""
    hit = np.isin(top, wanted)
    gains = 1 / np.log2(np.arange(DEEPEST) + 2)
    best = gains[: len(wanted)].sum()
    reciprocal = 1 / (int(hit.argmax()) + 1) if hit.any() else 0.0
    return [hit[:1].sum() / len(wanted), hit.sum() / len(wanted), reciprocal, float(gains[: len(hit)][hit].sum() / best)]


def _means(sums_RK: np.ndarray) -> Mapping[str, np.ndarray]:
    return {name: sums_RK[:, 1 + column] / sums_RK[:, 0] for column, name in enumerate(SCORES)}


def _details(ids_N: np.ndarray, place_N: np.ndarray, num_documents: int) -> dict[str, Any]:
    order = [row for row in np.argsort(-place_N, kind="stable")[:MOST_MISTAKES] if place_N[row] > 1]
    said = [{"id": int(ids_N[row]), "truth": "place 1", "predicted": f"place {place_N[row]} of {num_documents}"} for row in order]
    return {"documents": num_documents, "mistakes": said}


def _units(vectors_NH: np.ndarray) -> np.ndarray:
    lengths_N1 = np.linalg.norm(vectors_NH, axis=1, keepdims=True)
    units_NH: np.ndarray = vectors_NH / np.maximum(lengths_N1, 1e-12)
    return units_NH
