"""Scores of a finished run: on its own held-out rows, or on other labelled rows."""

from __future__ import annotations

from typing import Any

from luthier.core import files
from luthier.core.errors import DataError
from luthier.core.run_folder import RunFolder
from luthier.data.prepared import PreparedSplit
from luthier.data.section import Split
from luthier.recipe import Recipe
from luthier.serve.predictor import Predictor
from luthier.stages.results.finish import timed
from luthier.stages.results.measure import full_scores, outputs_of
from luthier.stages.results.written import with_texts

TRAINING_FACTS = ("task", "training_seconds", "samples_per_second", "tokens_per_second")


def evaluate_run(run: RunFolder, recipe: Recipe, *, data: str | None, started: float) -> dict[str, Any]:
    """Score a run and return the object that `luthier evaluate --json` prints.

    Args:
        run: A finished run.
        recipe: Its recipe, perhaps with other columns.
        data: Labelled rows, or None for the run's own.
        started: When the command began, in seconds since the epoch.

    Raises:
        DataError: if the run held nothing out and no rows are named.
    """
    predictor = Predictor.open(run.path)
    splits = own_splits(recipe, run) if data is None else other_rows(predictor, recipe, data)
    scored = {}
    for name, split in splits.items():
        answered = answered_by(predictor, split, recipe)
        scored[name] = {key: score.as_dict() for key, score in full_scores(answered, recipe.evaluate).items()}
    stored = files.read_json(run.metrics)
    facts = {"run": str(run.path), **{name: stored[name] for name in TRAINING_FACTS}}
    rows = {name: len(split) for name, split in splits.items()}
    return timed({**facts, "data": data, "rows": rows, "scores": scored}, started)


def answered_by(predictor: Predictor, split: PreparedSplit, recipe: Recipe) -> Any:
    """Return what a model answers for the rows of a split, with their truth.

    Args:
        predictor: The model.
        split: Rows that were encoded for it.
        recipe: Says how many tokens go through it at once.
    """
    limits: dict[str, Any] = {"max_tokens": recipe.evaluate.max_batch_tokens, "device": predictor.device}
    found = predictor.work.answered(outputs_of(predictor.work, predictor.parts, split, **limits))
    return with_texts(predictor.work, predictor.parts, split, found, device=predictor.device)


def own_splits(recipe: Recipe, run: RunFolder) -> dict[str, PreparedSplit]:
    """Return the rows that a run held out, by split.

    Raises:
        DataError: if it held none out.
    """
    prepared = recipe.task.prepare(recipe.data, recipe.model)
    splits = {name: split for name, split in prepared.splits.items() if name != "train" and len(split)}
    if not splits:
        raise DataError(
            f"the run '{run.path}' held no rows out to measure with",
            where="data",
            fix="name labelled rows: luthier evaluate RUN --data FILE",
        )
    return splits


def other_rows(predictor: Predictor, recipe: Recipe, data: str) -> dict[str, PreparedSplit]:
    """Return labelled rows of another file as a model reads them, as the split `test`."""
    section = recipe.data.model_copy(update={"train": None, "validation": None, "test": data, "slice_by": None, "split": Split(test=0.0)})
    return predictor.work.read_rows(section)
