"""The answers of a cross-validation to all of its rows, each row by the run that did not train on it, scored as one.

Shapes: K numbers of each row.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.model_folder import read_settings
from luthier.core.run_folder import RunFolder
from luthier.data.prepared import ID_SPAN
from luthier.metrics.answered import Answered
from luthier.metrics.found import Found
from luthier.metrics.joined import Joined
from luthier.metrics.likelihoods import Likelihoods
from luthier.metrics.row_sums import RowSums
from luthier.recipe import resolve_begun
from luthier.tasks.task import RowWork
from luthier.training.inference import merged
from luthier.workflows.together import NAMES, Member

log = logging.getLogger("luthier")


def out_of_fold_scores(runs: Sequence[Path]) -> dict[str, Any] | None:
    """Return how many rows all folds measured, and their scores with intervals; None, which is said, where folds know other labels.

    Args:
        runs: The run of each fold, finished.
    """
    members = [_member(path) for path in runs]
    told_by = [*NAMES, "scheme"] if not members[0].recipe.task.names_labels else ["scheme"]
    unlike = [name for name in told_by if any(_said(one, name) != _said(members[0], name) for one in members)]
    if unlike:
        log.warning("the folds differ in their %s, so their rows have no score together: only means over folds are told", ", ".join(unlike))
        return None
    from luthier.stages.results.measure import full_scores

    found, section = found_out_of_fold(members), members[0].recipe.evaluate
    return {"rows": len(found), "scores": {key: score.as_dict() for key, score in full_scores(found, section).items()}}


def found_out_of_fold(members: Sequence[Member]) -> Found:
    """Return what each run answers for the rows of its fold, as one.

    Args:
        members: The runs of all folds.
    """
    from luthier.serve.predictor import Predictor
    from luthier.stages.asking.evaluate import answered_by, own_splits
    from luthier.stages.results.measure import outputs_of

    outputs: list[Any] = []
    parts: list[Found] = []
    work = None
    for member in members:
        predictor, fold = Predictor.open(member.run.path), own_splits(member.recipe, member.run)["test"]
        if isinstance(predictor.work, RowWork) and not predictor.work.rows_meet:
            work = predictor.work
            limits: dict[str, Any] = {"max_tokens": member.recipe.evaluate.max_batch_tokens, "device": predictor.device}
            said = outputs_of(work, predictor.parts, fold, **limits)
            outputs.append(replace(said, ids=said.ids + len(outputs) * ID_SPAN))
        else:
            parts.append(answered_by(predictor, fold, member.recipe))
    return as_one(parts) if work is None else work.answered(merged(outputs))


def as_one(parts: Sequence[Any]) -> Any:
    """Return what was found of several sets of rows, each by another model, as found of all of them.

    Args:
        parts: Of one kind. Some tasks number the rows of each set from 1, so the ids of each begin at a number of its own.

    Raises:
        ValueError: if their labels or the numbers of their rows are other ones.
    """
    first = parts[0]
    if not isinstance(first, Joined):
        parts = [replace(one, ids_N=one.ids_N + number * ID_SPAN) for number, one in enumerate(parts)]
    if isinstance(first, Answered):
        return parts[0].merge(parts[1:])
    if isinstance(first, Likelihoods):
        return Likelihoods(*(np.concatenate([getattr(one, name) for one in parts]) for name in ("ids_N", "nats_N", "tokens_N", "right_N")))
    if isinstance(first, Joined):
        texts = [one.texts for one in parts if one.texts is not None]
        return Joined(as_one([one.likelihoods for one in parts]), as_one(texts) if texts else None)
    if not isinstance(first, RowSums) or len({one.columns_NK.shape[1] for one in parts}) > 1:
        raise ValueError("what was found of the parts are other numbers")
    columns_NK, ids_N = (np.concatenate([getattr(one, name) for one in parts]) for name in ("columns_NK", "ids_N"))
    return replace(first, ids_N=ids_N, columns_NK=columns_NK, details={})


def _member(path: Path) -> Member:
    run = RunFolder.open(path)
    return Member(run, resolve_begun(run.recipe), read_settings(run.model))


def _said(member: Member, name: str) -> Any:
    return member.settings.get(name)
