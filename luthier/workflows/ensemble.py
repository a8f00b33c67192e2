"""Several runs answer together: by the mean of their probabilities, by vote, or by a stack that is fitted to their validation rows.

Shapes: M runs, N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core import files
from luthier.core.errors import ConfigError, DataError, Fault
from luthier.core.names import did_you_mean
from luthier.data.prepared import PreparedSplit
from luthier.metrics.answered import Answered
from luthier.metrics.comparison import compare
from luthier.metrics.found import Found
from luthier.serve.combining import WAYS, Stack, combined
from luthier.serve.ensemble import ENSEMBLE
from luthier.workflows.crossval import folds_of
from luthier.workflows.row_ensemble import refuse_without_mean, rows_together
from luthier.workflows.stacking import fit_stack
from luthier.workflows.together import NAMES, Member, answers_of, measuring_split, members_of, same_rows, shared_rows


def ensemble(
    paths: Sequence[str | Path], *, how: str = "mean", data: str | None = None, output: str | Path | None = None
) -> dict[str, Any]:
    """Score several runs together, beside each of them on the same rows.

    Args:
        paths: Finished runs of one task with the same labels; a cross-validation stands for the runs of its folds.
        how: mean of the probabilities, or of what else the models say of a row, such as numbers; for classes alone vote, or stack: a
            logistic regression that is fitted to the answers for the validation rows; of cross-validations to those for the rows of
            each fold, by the run that did not train on them.
        data: Labelled rows; none: the rows that all of them held out.
        output: Folder to make, which `predict` takes; none: nothing is written.

    Returns:
        The object that `luthier ensemble --json` prints.

    Raises:
        ConfigError: if the runs have other labels, their answers cannot be put together, or the folder is taken.
        DataError: if they held other rows out, or a stack has no rows of its own.

    Reference: B. Lakshminarayanan, A. Pritzel and C. Blundell, Simple and Scalable Predictive Uncertainty Estimation using Deep
        Ensembles, 2017.
    """
    from luthier.stages.results.measure import full_scores

    if how not in WAYS:
        raise ConfigError([Fault("--how", f"got '{how}'", did_you_mean(how, WAYS))])
    folder = _free(output)
    members = members_of([run for path in paths for run in folds_of(path)], alike=NAMES)
    refuse_without_mean(members[0], how)
    found = (_rows if members[0].recipe.task.answers_with == "rows" else _classes)(paths, members, how, data)
    stack, together, singles = found["stack"], found["together"], found["singles"]
    if folder is not None:
        files.make_folder(folder, lambda made: _write(made / ENSEMBLE, members, found["seats"], singles[0], how, stack))
    section = members[0].recipe.evaluate
    sure: dict[str, Any] = {"resamples": section.resamples, "confidence": section.confidence}
    told = [
        {
            "run": name,
            "scores": {key: score.as_dict() for key, score in full_scores(single, section).items()},
            "comparison": _compared(single, together, sure),
        }
        for name, single in zip(found["seats"], singles, strict=True)
    ]
    return {
        "runs": [member.name for member in members],
        "how": how,
        "data": data,
        "split": found["split"],
        "rows": len(together),
        "scores": {key: score.as_dict() for key, score in full_scores(together, section).items()},
        "singles": told,
        "all_agree": found["all_agree"],
        "weights": None if stack is None else dict(zip(found["seats"], stack.weights_M, strict=True)),
        "output": None if folder is None else str(folder),
    }


def _classes(paths: Sequence[str | Path], members: Sequence[Member], how: str, data: str | None) -> dict[str, Any]:
    """Return what runs of classification find, each and together."""
    seats = _seats(paths, members, how)
    rows: list[dict[str, PreparedSplit] | None] = [None] * len(members) if data is not None else [*shared_rows(members)]
    answers = [answers_of(member, splits, data=data) for member, splits in zip(members, rows, strict=True)]
    split = measuring_split(list(answers[0]))
    singles = seats_together([answered[split] for answered in answers], seats)
    stack = _stack(members, seats, answers, data) if how == "stack" else None
    together = put_together(singles, how=how, stack=stack)
    return {"seats": seats, "split": split, "singles": singles, "together": together, "stack": stack, "all_agree": _share_alike(singles)}


def _rows(paths: Sequence[str | Path], members: Sequence[Member], how: str, data: str | None) -> dict[str, Any]:
    """Return what runs find whose rows have answers of their own, each and together."""
    found = rows_together(members, None if data is not None else shared_rows(members), data)
    return {"seats": _seats(paths, members, how), "stack": None, **found}


def _compared(single: Found, together: Found, sure: dict[str, Any]) -> dict[str, Any]:
    if isinstance(single, Answered) and isinstance(together, Answered):
        return compare(single, together, **sure).as_dict()
    return together.compared_with(single, **sure)


def put_together(singles: Sequence[Answered], *, how: str, stack: Stack | None = None) -> Answered:
    """Return what several models answer together for the same rows.

    Args:
        singles: Answers of each model, for the same ids in the same order.
        how: mean: the mean of the probabilities; vote: the share of the models that give the answer, the mean where votes are even;
            stack: what the fitted weights make of them.
        stack: The weights.

    Raises:
        ValueError: if they are not answers for the same rows and labels.
    """
    first = singles[0]
    if any(not np.array_equal(first.ids_N, one.ids_N) or first.labels != one.labels for one in singles):
        raise ValueError("the models answered other rows or have other labels")
    each_MNC = np.array([one.probabilities_NC for one in singles])
    together_NC = combined(each_MNC, how=how, multi_label=first.multi_label, stack=stack)
    return Answered(first.ids_N, together_NC, first.truth, first.labels, first.multi_label)


def _free(output: str | Path | None) -> Path | None:
    folder = None if output is None else Path(output)
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError([Fault("--output", f"'{folder}' exists and is not empty", "name another folder")])
    return folder


def _share_alike(singles: Sequence[Answered]) -> float:
    """Return the share of the rows that all runs answer alike."""
    predictions = np.stack([single.predictions for single in singles])
    alike_N = (predictions == predictions[0]).reshape(len(singles), len(singles[0]), -1).all(axis=(0, 2))
    return round(float(alike_N.mean()), 4)


def seats_together(each: Sequence[Answered], seats: Mapping[str, Sequence[int]]) -> list[Answered]:
    """Return the answers of each seat: those of a run, or the mean of the folds of a cross-validation.

    Args:
        each: Answers of each run, for the same ids in the same order.
        seats: Places of the runs of each seat, by its name.
    """
    return [put_together([each[place] for place in places], how="mean") for places in seats.values()]


def _seats(paths: Sequence[str | Path], members: Sequence[Member], how: str) -> dict[str, list[int]]:
    """Return who has a weight of its own: every run; in a stack of cross-validations each of these."""
    sizes = [len(folds_of(path)) for path in paths]
    if how != "stack" or max(sizes) == 1:
        return {member.name: [place] for place, member in enumerate(members)}
    if min(sizes) == 1 or len(sizes) == 1:
        what = "a stack is fitted to the out-of-fold answers of two or more cross-validations of the same rows"
        raise ConfigError([Fault("runs", what, "name two or more of them and no other run, or use --how mean")])
    ends = np.cumsum(sizes).tolist()
    return {str(path): list(range(end - size, end)) for path, size, end in zip(paths, sizes, ends, strict=True)}


def _stack(
    members: Sequence[Member], seats: Mapping[str, Sequence[int]], answers: Sequence[dict[str, Answered]], data: str | None
) -> Stack:
    """Fit the weights to rows that none was trained on and that are not measured: validation rows, or those of the folds."""
    if len(seats) < len(members):
        return fit_stack(out_of_fold([[members[place] for place in places] for places in seats.values()]))
    fix = "train with data.split.validation=0.1, or use --how mean"
    if data is not None:
        splits = shared_rows(members)
        if "validation" not in splits[0]:
            raise DataError("a stack is fitted to validation rows, and the runs held none out", where="data.split.validation", fix=fix)
        chosen = [{"validation": one["validation"]} for one in splits]
        answers = [answers_of(member, one) for member, one in zip(members, chosen, strict=True)]
    elif not {"validation", "test"} <= set(answers[0]):
        what = f"a stack is fitted to validation rows and measured on test rows; the runs held out {', '.join(answers[0])} alone"
        raise DataError(what, where="data.split", fix=f"{fix}, or name labelled rows with --data FILE")
    return fit_stack([one["validation"] for one in answers])


def out_of_fold(validations: Sequence[Sequence[Member]]) -> list[Answered]:
    """Return what each cross-validation answers for all rows, each row by the run that did not train on it.

    Args:
        validations: Runs of the folds of each.

    Raises:
        DataError: if their folds are not the same rows.
    """
    from luthier.stages.asking.evaluate import own_splits

    held_out = [[own_splits(member.recipe, member.run)["test"] for member in members] for members in validations]
    for folds in held_out[1:]:
        if len(folds) != len(held_out[0]) or not all(same_rows(one, other) for one, other in zip(folds, held_out[0], strict=True)):
            fix = "cross-validate the recipes with the same data section and number of folds"
            raise DataError("the cross-validations have other folds, so their answers are not about the same rows", fix=fix)
    found = []
    for members, folds in zip(validations, held_out, strict=True):
        parts = [answers_of(member, {"test": fold})["test"] for member, fold in zip(members, folds, strict=True)]
        probabilities_NC = np.concatenate([part.probabilities_NC for part in parts])
        truth = np.concatenate([part.truth for part in parts])
        found.append(Answered(np.arange(len(truth)), probabilities_NC, truth, parts[0].labels, parts[0].multi_label))
    return found


def _write(path: Path, members: Sequence[Member], seats: Mapping[str, Sequence[int]], first: Found, how: str, stack: Stack | None) -> None:
    fitted = None if stack is None else {"weights": stack.weights_M, "offsets": stack.offsets_C}
    runs = [str(member.run.path.resolve()) for member in members]
    files.write_json(
        path,
        {
            "runs": runs,
            "seats": list(seats.values()),
            "how": how,
            "labels": first.labels if isinstance(first, Answered) else [],
            "multi_label": isinstance(first, Answered) and first.multi_label,
            "stack": fitted,
        },
    )
