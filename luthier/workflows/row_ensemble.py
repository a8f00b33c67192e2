"""Several runs of a task whose rows have answers of their own answer together: by what the mean of what they say decides.

Shapes: M runs, N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from luthier.core.errors import ConfigError, DataError, Fault
from luthier.core.work import RowOutputs
from luthier.data.prepared import PreparedSplit
from luthier.metrics.found import Found
from luthier.serve.mean_of_rows import decided, mean_of_rows
from luthier.tasks.task import RowWork
from luthier.workflows.together import Member, measuring_split


def refuse_without_mean(member: Member, how: str) -> None:
    """Stop where the answers of a task cannot be put together so.

    Raises:
        ConfigError: if the task writes, what models say of its rows has no mean, or another way than the mean is wanted.
    """
    task = member.recipe.task
    name, fix = task.registered_name, "average the weights instead, which any task takes: luthier soup RUN RUN --output FOLDER"
    if task.answers_with == "text":
        raise ConfigError([Fault("runs", f"{name} writes texts, and several texts have no mean", fix)])
    if task.answers_with == "rows" and not task.has_mean:
        what = f"{name} keeps the best of what it finds and not the scores behind it, so answers have no mean"
        raise ConfigError([Fault("runs", what, fix)])
    if task.answers_with == "rows" and how != "mean":
        raise ConfigError([Fault("--how", f"'{how}' is over classes, and {name} has none", "use --how mean")])


def rows_together(members: Sequence[Member], splits: Sequence[dict[str, PreparedSplit]] | None, data: str | None) -> dict[str, Any]:
    """Return what runs find of the same rows, each and together.

    Args:
        members: Runs of one task that has a mean.
        splits: The rows of each run, as its own model reads them; None where `data` names them.
        data: A file with labelled rows.

    Returns:
        `split`, its name; `singles`, what each finds; `together`; `all_agree`, the share of rows that all answer alike, None of numbers.

    Raises:
        DataError: if not all of them can read the same rows.
    """
    from luthier.serve.predictor import Predictor
    from luthier.stages.asking.evaluate import other_rows
    from luthier.stages.results.measure import outputs_of

    works: list[RowWork] = []
    each: list[RowOutputs] = []
    split = measuring_split(list(splits[0])) if splits is not None else "test"
    for place, member in enumerate(members):
        predictor = Predictor.open(member.run.path)
        assert isinstance(predictor.work, RowWork)
        rows = splits[place][split] if splits is not None else other_rows(predictor, member.recipe, str(data))[split]
        limits: dict[str, Any] = {"max_tokens": member.recipe.evaluate.max_batch_tokens, "device": predictor.device}
        works.append(predictor.work)
        each.append(outputs_of(predictor.work, predictor.parts, rows, **limits))
        if not np.array_equal(each[0].ids, each[-1].ids):
            what = f"'{member.name}' and '{members[0].name}' cannot use the same rows of them"
            raise DataError(what, where="--data", fix="leave out the rows that one of them sets aside, such as those it knows no label of")
    singles: list[Found] = [work.answered(one) for work, one in zip(works, each, strict=True)]
    together = works[0].answered(mean_of_rows(works[0], each))
    return {"split": split, "singles": singles, "together": together, "all_agree": _share_alike(works, each)}


def _share_alike(works: Sequence[RowWork], each: Sequence[RowOutputs]) -> float | None:
    answers = [[decided(answer.label) for answer in work.answers(one)] for work, one in zip(works, each, strict=True)]
    if isinstance(answers[0][0], float):
        return None
    return round(float(np.mean([all(one == row[0] for one in row) for row in zip(*answers, strict=True)])), 4)
