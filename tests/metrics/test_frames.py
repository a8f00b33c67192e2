"""Scores of intents, slots and frames: worked by hand, and those of seqeval in strict mode."""

from __future__ import annotations

import random

import numpy as np
import pytest

from luthier.metrics.frames import SCORES, Frame, compared_frames
from luthier.tasks.frames.tags import slots_of

TRUTH = [
    Frame("play", [("artist", 1, 3), ("service", 4, 5)]),
    Frame("play", [("artist", 0, 1)]),
    Frame("book", []),
    Frame("book", [("city", 2, 3)]),
]
SAID = [
    Frame("play", [("artist", 1, 3), ("service", 4, 5)]),  # all right
    Frame("play", [("artist", 0, 2)]),  # a word too many
    Frame("play", []),  # the intent is wrong
    Frame("book", [("city", 2, 3), ("date", 4, 5)]),  # one slot too many
]


def test_scores_worked_by_hand() -> None:
    found = compared_frames(np.arange(4), TRUTH, SAID).scores(resamples=0)
    # slots: 3 of 5 said are right, 3 of 4 true ones are found
    expected = {"frame_accuracy": 1 / 4, "intent_accuracy": 3 / 4, "slot_precision": 3 / 5, "slot_recall": 3 / 4, "slot_f1": 6 / 9}
    assert set(found) == set(SCORES)
    assert {name: score.value for name, score in found.items()} == pytest.approx(expected)


def test_every_intent_and_slot_has_its_scores() -> None:
    classes = {one["label"]: one for one in compared_frames(np.arange(4), TRUTH, SAID).details["per_class"]}
    assert classes["slot artist"] == {"label": "slot artist", "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    assert classes["intent play"] == pytest.approx({**classes["intent play"], "precision": 2 / 3, "recall": 1.0, "f1": 0.8, "support": 2})
    assert classes["slot date"]["support"] == 0 and classes["slot date"]["f1"] == 0


def test_without_any_slot_f1_is_0() -> None:
    found = compared_frames(np.arange(1), [Frame("book", [])], [Frame("book", [])]).scores(resamples=0)
    assert found["slot_f1"].value == 0 and found["frame_accuracy"].value == 1


def test_slot_scores_are_those_of_seqeval_in_strict_mode() -> None:
    metrics, scheme = pytest.importorskip("seqeval.metrics"), pytest.importorskip("seqeval.scheme")
    dice = random.Random(0)
    tags = [[_drawn(dice) for _ in range(60)] for _ in range(2)]
    true, said = ([_repaired(row) for row in one] for one in tags)
    said = [one if dice.random() < 0.5 else other for one, other in zip(true, said, strict=True)]
    said = [(one + ["O"] * 9)[: len(other)] for one, other in zip(said, true, strict=True)]
    frames = [[Frame("x", slots_of(row)) for row in one] for one in (true, said)]
    found = compared_frames(np.arange(60), *frames).scores(resamples=0)
    for name in ("precision", "recall", "f1"):
        theirs = getattr(metrics, f"{name}_score")(true, said, mode="strict", scheme=scheme.IOB2, zero_division=0)
        assert 0.1 < theirs < 0.9
        assert found[f"slot_{name}"].value == pytest.approx(float(theirs), abs=1e-12)


def _drawn(dice: random.Random) -> list[str]:
    return [dice.choice(["O", "B-a", "I-a", "B-b", "I-b"]) for _ in range(dice.randint(3, 9))]


def _repaired(tags: list[str]) -> list[str]:
    """Begin a slot where one goes on that was not there."""
    whole: list[str] = []
    for tag in tags:
        begins = tag[:2] == "I-" and (not whole or whole[-1][2:] != tag[2:])
        whole.append(f"B-{tag[2:]}" if begins else tag)
    return whole
