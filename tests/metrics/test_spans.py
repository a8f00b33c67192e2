"""Scores of spans against worked values and the library that the field uses."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from luthier.metrics.row_sums import RowSums
from luthier.metrics.spans import found_spans
from luthier.tasks.tokens.schemes import units_of

KINDS = ("LOC", "ORG", "PER")


def sums_of(true: list[list[str]], said: list[list[str]], scheme: str = "iob2") -> RowSums:
    words = np.array([[sum(a == b for a, b in zip(one, other, strict=True)), len(one)] for one, other in zip(true, said, strict=True)])
    units = [[units_of(tags, scheme) for tags in rows] for rows in (true, said)]
    return found_spans(np.arange(len(true)), *units, words.astype(float))


def values(sums: RowSums) -> dict[str, float | None]:
    return {name: score.value for name, score in sums.scores(resamples=0).items()}


def test_worked_values() -> None:
    true = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "O"]]
    said = [["B-PER", "I-PER", "O", "B-ORG"], ["O", "O"]]
    found = values(sums_of(true, said))
    assert found == pytest.approx({"precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5, "f1_macro": 1 / 3, "accuracy": 4 / 6})
    assert values(sums_of([["O", "O"]], [["O", "O"]])) == {"precision": 0, "recall": 0, "f1": 0, "f1_macro": 0, "accuracy": 1}


def drawn_tags(dice: random.Random, length: int) -> list[str]:
    """Tags that mostly, not always, keep to IOB2."""
    tags: list[str] = []
    for _ in range(length):
        inside = f"I-{tags[-1][2:]}" if tags and tags[-1] != "O" else "O"
        tags.append(dice.choice(["O", "O", inside, inside, f"B-{dice.choice(KINDS)}", f"I-{dice.choice(KINDS)}"]))
    return tags


@pytest.mark.parametrize("seed", range(5))
def test_the_scores_are_those_of_seqeval_in_strict_mode(seed: int) -> None:
    seqeval = pytest.importorskip("seqeval.metrics")
    from seqeval.scheme import IOB2

    dice = random.Random(seed)
    true = [drawn_tags(dice, dice.randint(1, 12)) for _ in range(60)]
    said = [[tag if dice.random() < 0.7 else other for tag, other in zip(row, drawn_tags(dice, len(row)), strict=True)] for row in true]
    sums, strict = sums_of(true, said), {"mode": "strict", "scheme": IOB2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = {name: getattr(seqeval, f"{name}_score")(true, said, **strict) for name in ("precision", "recall", "f1")}
        wanted["f1_macro"] = seqeval.f1_score(true, said, average="macro", **strict)
        wanted["accuracy"] = seqeval.accuracy_score(true, said)
        report = seqeval.classification_report(true, said, output_dict=True, **strict)
    assert values(sums) == pytest.approx(wanted, abs=1e-12) and 0 < wanted["f1"] < 1
    for line in sums.details["per_class"]:
        theirs = {name.removesuffix("-score"): value for name, value in report[line["label"]].items()}
        assert {name: line[name] for name in ("precision", "recall", "f1", "support")} == pytest.approx(theirs, abs=1e-12)


def test_plain_tags_are_scored_as_classes_of_words() -> None:
    dice = random.Random(0)
    true = [dice.choices(["NOUN", "VERB", "ADJ"], k=6) for _ in range(20)]
    said = [[tag if dice.random() < 0.6 else dice.choice(["NOUN", "VERB", "X"]) for tag in row] for row in true]
    found, one, other = values(sums_of(true, said, "plain")), sum(true, []), sum(said, [])
    assert found["accuracy"] == found["f1"] == found["precision"] == pytest.approx(accuracy_score(one, other))
    assert found["f1_macro"] == pytest.approx(f1_score(one, other, average="macro", zero_division=0))


def test_intervals_hold_the_value() -> None:
    dice = random.Random(1)
    true = [drawn_tags(dice, 8) for _ in range(50)]
    said = [[tag if dice.random() < 0.8 else "O" for tag in row] for row in true]
    score = sums_of(true, said).scores(resamples=200)["f1"]
    assert score.low is not None and score.high is not None and score.low < score.value < score.high
