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
from luthier.metrics.comparison import compare
from luthier.metrics.details import confusion, per_class, reliability, worst_mistakes
from luthier.metrics.intervals import Score, affordable, scores
from luthier.metrics.likelihoods import Likelihoods, likelihood_scores
from luthier.stages.written import details_of_text
from luthier.tasks.task import ClassWork, Work, WritingWork
from luthier.training.inference import merged, most_tokens, run_batches
from luthier.training.section import EvaluateSection
from luthier.training.world import ALONE, World

MOST_CENTROID_ROWS = 2000
SLICE_SCORES = ("accuracy", "f1_macro")
BASELINE = "nearest class centroid on the untuned embeddings"


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
    if isinstance(answered, Likelihoods):
        return {name: score.value for name, score in likelihood_scores(answered, resamples=0).items() if score.value is not None}
    values = {name: score.value for name, score in scores(answered, resamples=0).items() if score.value is not None}
    loss = work.loss(torch.from_numpy(outputs.logits_BC), torch.from_numpy(np.asarray(outputs.targets)))
    return {"loss": float(loss.sum / loss.weight), **values}


def full_scores(answered: Answered | Likelihoods, section: EvaluateSection) -> dict[str, Score]:
    """Return every wanted score with its bootstrap interval."""
    if isinstance(answered, Likelihoods):
        return likelihood_scores(answered, keys=section.metrics, resamples=section.resamples, confidence=section.confidence)
    return scores(answered, keys=section.metrics, resamples=section.resamples, confidence=section.confidence)


def details_of(answered: Any, split: PreparedSplit, section: EvaluateSection, base: Any) -> dict[str, Any]:
    """Return what stands behind the scores of one split, for `evaluation.json`.

    Args:
        answered: Answers of the tuned model.
        split: The rows, for their texts.
        section: How intervals are made.
        base: Answers of the untuned baseline on the same rows, or None.
    """
    if isinstance(answered, Likelihoods):
        return details_of_text(answered, split, section, base)
    rows = {int(id_): index for index, id_ in enumerate(split.ids_N)}
    mistakes = worst_mistakes(answered)
    texts = split.texts([rows[mistake["id"]] for mistake in mistakes])
    return {
        "labels": list(answered.labels),
        "multi_label": answered.multi_label,
        "num_rows": len(answered),
        "resamples": affordable(section.resamples, answered),
        "confidence": section.confidence,
        "confusion": None if answered.multi_label else confusion(answered),
        "per_class": [entry.as_dict() for entry in per_class(answered)],
        "reliability": reliability(answered),
        "mistakes": [{**mistake, "text": text} for mistake, text in zip(mistakes, texts, strict=True)],
        "slices": _slices(answered, split, section),
        "baseline": _baseline_facts(base, split, section),
        "comparison": compare(base, answered, resamples=section.resamples, confidence=section.confidence).as_dict() if base else None,
    }


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


def _slices(answered: Answered, split: PreparedSplit, section: EvaluateSection) -> dict[str, Any]:
    if split.slices is None:
        return {}
    value_of = dict(zip(split.ids_N.tolist(), split.slices, strict=True))
    values = np.array([str(value_of[int(id_)]) for id_ in answered.ids_N])
    slices = {}
    for value in sorted(set(values)):
        part = answered.select(values == value)
        measured = scores(part, keys=SLICE_SCORES, resamples=section.resamples, confidence=section.confidence)
        slices[value] = {"num_rows": len(part), **{name: score.as_dict() for name, score in measured.items()}}
    return slices


def _baseline_facts(base: Answered | None, split: PreparedSplit, section: EvaluateSection) -> dict[str, Any] | None:
    if base is None:
        return None
    measured = scores(base, keys=SLICE_SCORES, resamples=section.resamples, confidence=section.confidence)
    facts = {"name": BASELINE, "scores": {name: score.as_dict() for name, score in measured.items()}}
    return {**facts, "slices": _slices(base, split, section)}
