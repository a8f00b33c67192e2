"""Confusions, classes, calibration bins and worst mistakes, on the six rows worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from made_answers import random_answered, six

from luthier.metrics.answered import Answered
from luthier.metrics.details import ClassScore, confusion, per_class, reliability, worst_mistakes
from luthier.metrics.intervals import scores


def several() -> Answered:
    probabilities_NC = np.array([[0.9, 0.2], [0.6, 0.7], [0.1, 0.4]])
    return Answered(np.array([5, 6, 7]), probabilities_NC, np.array([[1, 0], [0, 0], [1, 0]]), ("a", "b"), multi_label=True)


def test_confusion() -> None:
    assert confusion(six()) == [[1, 1, 0], [0, 2, 0], [1, 0, 1]]
    with pytest.raises(ValueError, match="per_class"):
        confusion(several())


def test_per_class() -> None:
    bill, card, loan = per_class(six())
    assert bill == ClassScore("bill", 0.5, 0.5, 0.5, 2)
    assert card == ClassScore("card", 2 / 3, 1.0, 0.8, 2)
    assert loan == ClassScore("loan", 1.0, 0.5, pytest.approx(2 / 3), 2)
    assert per_class(several())[0].as_dict() == {"label": "a", "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    assert per_class(several())[1].f1 == 0.0


def test_reliability() -> None:
    bins = reliability(six(), num_bins=10)
    filled = {bin["high"]: bin for bin in bins if bin["count"]}
    assert list(filled) == pytest.approx([0.5, 0.6, 0.7, 0.8])
    by_count = [(bin["count"], bin["accuracy"]) for bin in filled.values()]
    assert by_count == [(1, 1.0), (3, pytest.approx(1 / 3)), (1, 1.0), (1, 1.0)]
    assert bins[0] == {"low": 0.0, "high": 0.1, "count": 0, "confidence": None, "accuracy": None}


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_bins_give_the_calibration_error(multi_label: bool) -> None:
    answered = random_answered(90, 3, multi_label=multi_label)
    bins = [bin for bin in reliability(answered) if bin["count"]]
    num_statements = sum(bin["count"] for bin in bins)  # type: ignore[misc]
    error = sum(bin["count"] * abs(bin["confidence"] - bin["accuracy"]) for bin in bins) / num_statements  # type: ignore[operator]
    assert num_statements == (270 if multi_label else 90)
    assert error == pytest.approx(scores(answered, keys=["ece"], resamples=0)["ece"].value)


def test_worst_mistakes() -> None:
    first, second = worst_mistakes(six())
    assert first == {"id": 1, "truth": "bill", "predicted": "card", "probability": 0.6, "truth_probability": 0.3}
    assert second == {"id": 5, "truth": "loan", "predicted": "bill", "probability": 0.6, "truth_probability": 0.2}
    assert worst_mistakes(six(), limit=1) == [first]


def test_worst_mistakes_of_multi_label() -> None:
    first, second = worst_mistakes(several())
    assert (first["id"], first["truth"], first["predicted"], first["probability"]) == (7, ["a"], [], 0.9)
    assert (second["id"], second["truth"], second["predicted"], second["probability"]) == (6, [], ["a", "b"], 0.7)
    assert second["truth_probability"] == pytest.approx(0.3)
