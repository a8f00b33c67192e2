"""Precision, recall and F1 of spans, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.metrics.found_spans import SCORES, compared_spans


def test_a_span_counts_where_both_ends_are_right() -> None:
    said = [[(0, 3), (5, 9)], [(0, 3)], [], [(1, 2)]]
    right = [[(0, 3), (5, 8)], [(0, 3)], [(4, 6)], []]
    found = compared_spans(np.arange(4), said, right, ["a", "a", "b", "b"])
    scores = {name: score.value for name, score in found.scores(resamples=20).items()}
    assert tuple(scores) == SCORES
    assert scores == pytest.approx({"precision": 2 / 4, "recall": 2 / 4, "f1": 2 * 2 / (4 + 4)})
    a, b = found.details["per_class"]
    assert a == {"label": "a", "precision": pytest.approx(2 / 3), "recall": pytest.approx(2 / 3), "f1": pytest.approx(2 / 3), "support": 3}
    assert (b["f1"], b["support"]) == (0.0, 1)


def test_nothing_found_has_no_precision() -> None:
    scores = compared_spans(np.arange(1), [[]], [[(0, 1)]], ["a"]).scores(resamples=0)
    assert scores["precision"].value is None and scores["recall"].value == 0.0 and scores["f1"].value == 0.0
