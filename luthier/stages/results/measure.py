"""Scores of a model on prepared rows: point values while training, intervals and details at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from luthier.core.work import Batch, Parts
from luthier.data.batches import evaluation_order
from luthier.data.prepared import PreparedSplit
from luthier.data.source import EVERYTHING, Share
from luthier.metrics.answered import Answered
from luthier.metrics.baseline import nearest_centroid
from luthier.metrics.found import Found
from luthier.metrics.intervals import Score
from luthier.tasks.task import ClassWork, Work, WritingWork
from luthier.training.inference import merged, most_tokens, run_batches
from luthier.training.section import EvaluateSection
from luthier.training.world import ALONE, World

MOST_CENTROID_ROWS = 2000


def outputs_of(
    work: Work,
    parts: Parts,
    split: PreparedSplit,
    *,
    max_tokens: int,
    device: str,
    check: Callable[[], None] | None = None,
    world: World = ALONE,
) -> Any:
    """Return what the model says of every row of a split, in float32, in the order of the ids; processes share the rows."""
    alone = isinstance(work, WritingWork)  # logits of a whole vocabulary are held once, not once for each core
    most = max_tokens if alone else most_tokens(device, max_tokens)
    batches = batches_of(work, split, np.arange(len(split)), most, Share(world.rank, world.size))
    mine = merged(list(run_batches(work.outputs, parts, batches, device=device, check=check, alone=alone)))
    return mine if world.size == 1 else merged(world.gathered(mine))


def quick_scores(work: Work, outputs: Any) -> dict[str, float]:
    """Return every score without intervals, and the mean loss, for an evaluation while training."""
    answered = work.answered(outputs)
    values = {name: score.value for name, score in answered.scores(resamples=0).items() if score.value is not None}
    if not isinstance(work, ClassWork):
        return values
    loss = work.loss(torch.from_numpy(outputs.logits_BC), torch.from_numpy(np.asarray(outputs.targets)))
    return {"loss": float(loss.sum / loss.weight), **values}


def full_scores(answered: Found, section: EvaluateSection) -> dict[str, Score]:
    """Return every wanted score with its bootstrap interval."""
    return answered.scores(keys=section.metrics, resamples=section.resamples, confidence=section.confidence)


def details_of(answered: Found, split: PreparedSplit, section: EvaluateSection, base: Found | None) -> dict[str, Any]:
    """Return what stands behind the scores of one split, for `evaluation.json`.

    Args:
        answered: Answers of the tuned model.
        split: The rows, for their texts.
        section: How intervals are made.
        base: Answers of the untuned model on the same rows, or None.
    """
    behind = answered.behind(resamples=section.resamples)
    compared: dict[str, Any] = {"resamples": section.resamples, "confidence": section.confidence}
    return {
        "num_rows": len(answered),
        "confidence": section.confidence,
        **behind,
        "mistakes": _with_texts(behind.get("mistakes", []), split),
        "slices": _slices(answered, split, section),
        "baseline": None if base is None else _baseline_facts(base, split, section),
        "comparison": None if base is None else answered.compared_with(base, **compared),
    }


def _with_texts(mistakes: list[dict[str, Any]], split: PreparedSplit) -> list[dict[str, Any]]:
    rows = {int(id_): index for index, id_ in enumerate(split.ids_N)}
    places = [rows[mistake["id"]] for mistake in mistakes]
    pairs = split.pairs(places)
    seconds = [{}] * len(places) if pairs is None else [{"text_pair": pair} for pair in pairs]
    return [{**mistake, "text": text, **second} for mistake, text, second in zip(mistakes, split.texts(places), seconds, strict=True)]


def baseline_answers(
    work: ClassWork, parts: Parts, train: PreparedSplit, splits: dict[str, PreparedSplit], *, max_tokens: int, device: str
) -> dict[str, Answered]:
    """Return the answers of the untuned model by nearest class centroid, for single-label problems.

    Args:
        work: The task at work.
        parts: The untuned modules.
        train: Training rows; at most 2,000, evenly spread, make the centroids.
        splits: Rows to answer.
        max_tokens: Tokens in a batch.
        device: Device of the modules.
    """
    chosen = np.unique(np.linspace(0, len(train) - 1, min(len(train), MOST_CENTROID_ROWS)).astype(int))
    vectors = _embeddings(work, parts, train, chosen, max_tokens, device)
    answers = {}
    for name, split in splits.items():
        rows = np.arange(len(split))
        embedded = _embeddings(work, parts, split, rows, max_tokens, device)
        labels = tuple(work.describe()["labels"])
        probabilities = nearest_centroid(vectors, train.targets[chosen], embedded, len(labels))
        answers[name] = Answered(split.ids_N, probabilities, split.targets, labels)
    return answers


def _embeddings(work: ClassWork, parts: Parts, split: PreparedSplit, rows: np.ndarray, max_tokens: int, device: str) -> np.ndarray:
    batches = list(batches_of(work, split, rows, most_tokens(device, max_tokens)))
    vectors = np.concatenate(list(run_batches(work.embeddings, parts, batches, device=device)))
    place = {id_: position for position, id_ in enumerate(id_ for batch in batches for id_ in batch.ids)}
    return vectors[[place[int(id_)] for id_ in split.ids_N[rows]]]


def batches_of(work: Work, split: PreparedSplit, rows: np.ndarray, max_tokens: int, share: Share = EVERYTHING) -> Iterator[Batch]:
    """Yield batches of some rows of a split, of like length, longest first; every share has as many batches."""
    lengths = np.maximum(split.longest_window_N, split.num_tokens_N)[rows]
    for batch in evaluation_order(lengths, max_tokens=max_tokens * share.size):
        mine = batch[share.rank :: share.size]
        found: Batch = work.collate([split.row(int(row)) for row in rows[mine if len(mine) else batch[:1]]])
        yield found


def _slices(answered: Found, split: PreparedSplit, section: EvaluateSection) -> dict[str, Any]:
    if split.slices is None:
        return {}
    value_of = dict(zip(split.ids_N.tolist(), split.slices, strict=True))
    values = np.array([str(value_of[int(id_)]) for id_ in answered.ids_N])
    slices = {}
    for value in sorted(set(values)):
        part = answered.select(values == value)
        slices[value] = {"num_rows": len(part), **_slice_scores(part, section)}
    return slices


def _baseline_facts(base: Found, split: PreparedSplit, section: EvaluateSection) -> dict[str, Any]:
    return {"name": base.baseline, "scores": _slice_scores(base, section), "slices": _slices(base, split, section)}


def _slice_scores(found: Found, section: EvaluateSection) -> dict[str, Any]:
    measured = found.scores(keys=found.slice_scores or None, resamples=section.resamples, confidence=section.confidence)
    return {name: score.as_dict() for name, score in measured.items()}
