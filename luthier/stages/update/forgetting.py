"""The forgetting report: the test rows of the old run, answered before and after it was tuned further."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.metrics.answered import Answered
from luthier.metrics.found import Found
from luthier.recipe import Recipe
from luthier.stages.results.measure import full_scores, outputs_of
from luthier.stages.update.keeping import Keeping, widened
from luthier.stages.update.old_run import OldRowsGone, OldRun
from luthier.tasks.task import ClassWork, WritingWork

if TYPE_CHECKING:
    from luthier.data.prepared import PreparedSplit
    from luthier.stages.layout.begin import Bench

log = logging.getLogger("luthier")


def what_was_forgotten(bench: Bench) -> dict[str, Any]:
    """Return `forgetting` for `metrics.json`: the old run's test rows before and after; nothing where there are none, or it is not wanted.

    Rows of another task are answered by the old head on the trunk as it is now.
    """
    keeping = bench.keeping
    if keeping is None or not keeping.section.report:
        return {}
    try:
        measured = keeping.old.measured
    except OldRowsGone as error:
        log.warning("what was forgotten is not measured: %s", error.what)
        return {}
    if measured is None:
        return {}
    earlier = [(run, *run_measured) for run in keeping.old.earlier if (run_measured := _measured(run)) is not None]
    facts = _facts(bench, keeping, keeping.old, *measured)
    return {"forgetting": facts | ({"earlier": [_facts(bench, keeping, *one) for one in earlier]} if earlier else {})}


def _measured(run: OldRun) -> tuple[str, PreparedSplit] | None:
    """Return what an earlier run was measured on; None, and why, where that is gone."""
    try:
        return run.measured
    except OldRowsGone as error:
        log.warning("what was forgotten of an earlier run is not measured: %s", error.what)
        return None


def _facts(bench: Bench, keeping: Keeping, run: OldRun, name: str, split: PreparedSplit) -> dict[str, Any]:
    """Return how rows of a run are answered by the model that was tuned further, and by what it is now."""
    before, after = _before(bench, keeping, split), _after(bench, keeping, split)
    section = bench.recipe.evaluate
    sure: dict[str, Any] = {"resamples": section.resamples, "confidence": section.confidence}
    scores = [{key: score.as_dict() for key, score in full_scores(answered, section).items()} for answered in (before, after)]
    return {
        "run": str(run.run.path),
        "split": name,
        "rows": len(split),
        "labels": bench.recipe.keep.labels if bench.recipe.keep else "apart",
        "kept_by": kept_by(bench.recipe),
        "before": scores[0],
        "after": scores[1],
        "comparison": after.compared_with(before, **sure),
    }


def kept_by(recipe: Recipe) -> list[str]:
    """Return what was done so that old rows are not forgotten, in words."""
    keep, found = recipe.keep, []
    assert keep is not None
    if keep.replay is not None:
        found.append(f"replay of {keep.replay.share:g} of the rows")
    if keep.ewc is not None:
        found.append(f"EWC {keep.ewc:g}")
    if keep.fisher_mask is not None:
        found.append(f"a mask that trains the {keep.fisher_mask.share:g} of {keep.fisher_mask.which} Fisher information")
    return found + ([f"L2-SP {recipe.training.l2_sp:g}"] if recipe.training.l2_sp is not None else [])


def _before(bench: Bench, keeping: Keeping, split: PreparedSplit) -> Found:
    """Return what the old model answers, over the labels of the new one where both have one head."""
    work, parts = keeping.old.restored()
    for part in parts.values():
        part.module.to(bench.care.device)
    if isinstance(work, WritingWork):
        work = keeping.work  # lays rows out as this run does
    outputs: Any = outputs_of(work, parts, split, **_limits(bench))
    if isinstance(work, ClassWork) and keeping.old.multi_label:
        outputs = replace(outputs, targets=widened(outputs.targets, len(keeping.old.labels)))
    answered: Found = work.answered(outputs)
    return _with_labels(answered, bench.prepared.labels) if keeping.is_joined and isinstance(answered, Answered) else answered


def _after(bench: Bench, keeping: Keeping, split: PreparedSplit) -> Found:
    """Return what the model answers now."""
    outputs: Any = outputs_of(keeping.work, keeping.head or bench.parts, split, **_limits(bench))
    if keeping.is_joined and bench.prepared.multi_label:
        outputs = replace(outputs, targets=widened(outputs.targets, len(bench.prepared.labels)))
    answered: Found = keeping.work.answered(outputs)
    return answered


def _with_labels(answered: Answered, labels: tuple[str, ...]) -> Answered:
    """Return answers over more labels, the later ones with probability 0."""
    probabilities_NC = np.asarray(widened(answered.probabilities_NC, len(labels)))
    truth = widened(answered.truth, len(labels)) if answered.multi_label else answered.truth
    return replace(answered, probabilities_NC=probabilities_NC, truth=truth, labels=labels)


def _limits(bench: Bench) -> dict[str, Any]:
    return {"max_tokens": bench.recipe.evaluate.max_batch_tokens, "device": bench.care.device}
