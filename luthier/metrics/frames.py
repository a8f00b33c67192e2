"""How many intents, slots and whole frames are right.

Shapes: N rows, R resamples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from luthier.metrics.row_sums import RowSums

SCORES = ("frame_accuracy", "intent_accuracy", "slot_f1", "slot_precision", "slot_recall")
PRIMARY = "frame_accuracy"


class Frame(NamedTuple):
    """What a text asks for.

    Args:
        intent: Name of the intent.
        slots: Slots as (name, beginning, end), no two of them alike.
    """

    intent: str
    slots: Sequence[tuple[str, int, int]]


def compared_frames(
    ids_N: np.ndarray, truth: Sequence[Frame], predicted: Sequence[Frame], *, mistakes: Sequence[Mapping[str, Any]] = ()
) -> RowSums:
    """Return the scores of predicted frames.

    A slot is right where name, beginning and end are; its precision, recall and F1 are those of all slots of all rows together, as
    seqeval's strict mode gives them. A frame is right where its intent is and it has the true slots and no others.

    Args:
        ids_N: Sample ids.
        truth: The true frames.
        predicted: The predicted ones.
        mistakes: What is shown of wrong rows.

    Reference: https://github.com/chakki-works/seqeval
    """
    rows = []
    for true, said in zip(truth, predicted, strict=True):
        intent, hits = true.intent == said.intent, len(set(true.slots) & set(said.slots))
        whole = intent and hits == len(true.slots) == len(said.slots)
        rows.append([1.0, intent, whole, hits, len(said.slots), len(true.slots)])
    details = {"per_class": per_class(truth, predicted), "mistakes": list(mistakes)}
    return RowSums(ids_N, np.array(rows, np.float64), _of_sums, PRIMARY, True, details)


def per_class(truth: Sequence[Frame], predicted: Sequence[Frame]) -> list[dict[str, Any]]:
    """Return precision, recall, F1 and how often it occurs, of every intent and every slot name."""
    pairs = list(zip(truth, predicted, strict=True))
    counted = Counter[tuple[str, str]]()
    for true, said in pairs:
        of_truth = [f"intent {true.intent}", *(f"slot {name}" for name, *_ in true.slots)]
        of_answer = [f"intent {said.intent}", *(f"slot {name}" for name, *_ in said.slots)]
        right = [f"slot {name}" for name, *_ in set(true.slots) & set(said.slots)]
        right += [f"intent {true.intent}"] if true.intent == said.intent else []
        for kind, labels in (("true", of_truth), ("said", of_answer), ("right", right)):
            counted.update((kind, label) for label in labels)
    labels = sorted({label for _, label in counted})
    return [_class(label, *(counted[kind, label] for kind in ("right", "said", "true"))) for label in labels]


def _class(label: Hashable, right: int, said: int, true: int) -> dict[str, Any]:
    scores = {"precision": right / said if said else 0.0, "recall": right / true if true else 0.0}
    return {"label": label, **scores, "f1": 2 * right / (said + true), "support": true}


def _of_sums(sums_RK: np.ndarray) -> dict[str, np.ndarray]:
    number_R, intents_R, frames_R, hits_R, said_R, true_R = sums_RK.T
    return {
        "frame_accuracy": frames_R / number_R,
        "intent_accuracy": intents_R / number_R,
        "slot_f1": _ratio(2 * hits_R, said_R + true_R),
        "slot_precision": _ratio(hits_R, said_R),
        "slot_recall": _ratio(hits_R, true_R),
    }


def _ratio(above_R: np.ndarray, below_R: np.ndarray) -> np.ndarray:
    """Divide; 0 where there is nothing to divide by, as seqeval does."""
    return np.divide(above_R, below_R, out=np.zeros_like(above_R), where=below_R > 0)
