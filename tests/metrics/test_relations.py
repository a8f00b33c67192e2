"""The official score of SemEval-2010 task 8: worked by hand from confusion matrices, and by its definition."""

from __future__ import annotations

import random

import numpy as np
import pytest

from luthier.metrics.relations import compared_relations, no_relation_among, without_direction

LABELS = [f"{name}({direction})" for name in ("A-B", "C-D", "E-F") for direction in ("e1,e2", "e2,e1")] + ["Other"]


def scores(truth: list[str], predicted: list[str], *, no_relation: str | None = "Other") -> dict[str, float | None]:
    found = compared_relations(np.arange(len(truth)), truth, predicted, no_relation=no_relation).scores(resamples=0)
    return {name: score.value for name, score in found.items()}


def rows_of(confusion: dict[tuple[str, str], int]) -> tuple[list[str], list[str]]:
    """Truth and answers, from how often each pair is there."""
    pairs = [pair for pair, number in confusion.items() for _ in range(number)]
    return [true for true, _ in pairs], [said for _, said in pairs]


def test_a_confusion_matrix_worked_by_hand() -> None:
    truth, predicted = rows_of(
        {
            ("A(e1,e2)", "A(e1,e2)"): 6,
            ("A(e1,e2)", "A(e2,e1)"): 2,  # the wrong direction: missed, and wrongly answered
            ("A(e1,e2)", "B(e1,e2)"): 1,
            ("A(e2,e1)", "Other"): 1,
            ("B(e1,e2)", "B(e1,e2)"): 3,
            ("B(e2,e1)", "A(e1,e2)"): 1,
            ("Other", "Other"): 4,
            ("Other", "A(e2,e1)"): 1,
            ("Other", "B(e1,e2)"): 1,
        }
    )
    # A: 6 right, 6 + 2 + 1 + 1 = 10 answered, 10 true: F1 .6; B: 3 right, 5 answered, 4 true: F1 6/9
    assert scores(truth, predicted) == pytest.approx({"macro_f1": (0.6 + 6 / 9) / 2, "micro_f1": 2 * 9 / (15 + 14), "accuracy": 13 / 20})


def test_a_relation_that_is_only_answered_is_in_no_average() -> None:
    found = scores(["A(e1,e2)", "Other", "A(e1,e2)"], ["A(e1,e2)", "B(e1,e2)", "B(e1,e2)"])
    assert found == pytest.approx({"macro_f1": 2 / 3, "micro_f1": 2 / 3, "accuracy": 1 / 3})


def test_without_any_relation_f1_is_undefined() -> None:
    assert scores(["Other", "Other"], ["Other", "Other"]) == {"macro_f1": None, "micro_f1": None, "accuracy": 1.0}


def test_without_a_label_for_none_every_label_counts() -> None:
    assert scores(["x", "y", "y"], ["x", "y", "x"], no_relation=None)["macro_f1"] == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_scores_are_those_of_the_definition_on_drawn_answers() -> None:
    """F1 by precision and recall of each relation, as the scorer's page says, written another way."""
    dice = random.Random(0)
    truth = [dice.choice(LABELS) for _ in range(300)]
    predicted = [true if dice.random() < 0.5 else dice.choice(LABELS) for true in truth]
    f1 = []
    for name in ("A-B", "C-D", "E-F"):
        right = sum(true == said and true.startswith(name) for true, said in zip(truth, predicted, strict=True))
        precision = right / sum(said.startswith(name) for said in predicted)
        recall = right / sum(true.startswith(name) for true in truth)
        f1.append(2 * precision * recall / (precision + recall))
    found = compared_relations(np.arange(300), truth, predicted, no_relation="Other")
    assert found.scores(resamples=0)["macro_f1"].value == pytest.approx(sum(f1) / 3, abs=1e-12)
    assert [one["f1"] for one in found.details["per_class"]] == pytest.approx(f1)
    score = found.scores(resamples=200)["macro_f1"]
    assert score.low is not None and score.high is not None and score.value is not None
    assert score.low < score.value < score.high < 1


def test_names() -> None:
    assert without_direction("Cause-Effect(e2,e1)") == "Cause-Effect" and without_direction("per:title(x)") == "per:title(x)"
    assert no_relation_among(["a", "Other"]) == "Other" and no_relation_among(["a", "no_relation"]) == "no_relation"
    assert no_relation_among(["a", "another"]) is None
