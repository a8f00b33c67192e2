"""Retrieval: the numbers worked by hand, and those of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.metrics import retrieval
from luthier.metrics.retrieval import found_among


def scores(queries: np.ndarray, documents: np.ndarray, keys: list[tuple[int, int]]) -> dict[str, float | None]:
    found = found_among(np.arange(len(queries)), queries, documents, np.array(keys), primary="ndcg@10")
    return {name: score.value for name, score in found.scores(resamples=0).items()}


def test_values_worked_by_hand() -> None:
    """The first query has its document at place 1, the second at place 2, the third at place 3."""
    queries = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    documents = np.array([[1.0, 0.0], [0.9, 0.3], [1.0, -0.5]])
    found = scores(queries, documents, [(0, 10), (1, 11), (2, 12)])
    expected = {"recall@1": 1 / 3, "recall@10": 1.0, "mrr@10": (1 + 1 / 2 + 1 / 3) / 3, "ndcg@10": (1 + 1 / np.log2(3) + 1 / 2) / 3}
    assert found == pytest.approx(expected)


def test_equal_texts_are_one_document_and_one_query() -> None:
    queries, documents = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [0.9, 0.1], [1.0, 0.0]])
    found = scores(queries, documents, [(0, 10), (0, 11), (1, 10)])
    # two documents; both are right for the first two queries, and the third finds its own at place 2
    assert found["recall@1"] == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert found["mrr@10"] == pytest.approx((1 + 1 + 1 / 2) / 3) and found["recall@10"] == 1


def test_ndcg_is_that_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    dice = np.random.default_rng(0)
    queries, documents = dice.normal(size=(60, 4)), dice.normal(size=(60, 4))
    firsts, seconds = dice.integers(0, 25, 60), np.arange(60)
    queries = queries[firsts]
    found = scores(queries, documents, list(zip(firsts.tolist(), seconds.tolist(), strict=True)))
    units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, documents)]
    right = (firsts[:, None] == firsts[None, :]).astype(int)
    assert found["ndcg@10"] == pytest.approx(metrics.ndcg_score(right, units[0] @ units[1].T, k=10), abs=1e-9)
    monkeypatch.setattr(retrieval, "AT_ONCE", 130)
    again = scores(queries, documents, list(zip(firsts.tolist(), seconds.tolist(), strict=True)))
    assert again == pytest.approx(found, abs=1e-12)


def test_the_worst_rows_are_told() -> None:
    units = np.eye(2)
    right = found_among(np.array([7, 8]), units, units, np.array([(0, 1), (2, 3)]), primary="ndcg@10").details
    assert right == {"documents": 2, "mistakes": []}
    turned = found_among(np.array([7, 8]), units, units[::-1], np.array([(0, 1), (2, 3)]), primary="ndcg@10").details
    assert turned["mistakes"] == [{"id": id_, "truth": "place 1", "predicted": "place 2 of 2"} for id_ in (7, 8)]
