"""Several runs answer together: by the mean of their probabilities, or by vote.

Shapes: M runs, N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.errors import ConfigError, Fault
from luthier.core.names import did_you_mean
from luthier.data.prepared import PreparedSplit
from luthier.metrics.answered import THRESHOLD, Answered
from luthier.metrics.comparison import compare
from luthier.workflows.together import answers_of, measuring_split, members_of, shared_rows

WAYS = ("mean", "vote")
TIE_BREAK = 1e-3  # share of the mean in a vote: it decides between equal votes and nothing else


def ensemble(paths: Sequence[str | Path], *, how: str = "mean", data: str | None = None) -> dict[str, Any]:
    """Score several runs together, beside each of them on the same rows.

    Args:
        paths: Finished runs of classification with the same labels.
        how: mean of the probabilities, or vote.
        data: Labelled rows; none: the rows that all of them held out.

    Returns:
        The object that `luthier ensemble --json` prints.

    Raises:
        ConfigError: if the runs have other labels.
        DataError: if they held other rows out.

    Reference: B. Lakshminarayanan, A. Pritzel and C. Blundell, Simple and Scalable Predictive Uncertainty Estimation using Deep
        Ensembles, 2017.
    """
    from luthier.stages.measure import full_scores

    if how not in WAYS:
        raise ConfigError([Fault("--how", f"got '{how}'", did_you_mean(how, WAYS))])
    members = members_of(paths)
    rows: list[dict[str, PreparedSplit] | None] = [None] * len(members) if data is not None else [*shared_rows(members)]
    answers = [answers_of(member, splits, data=data) for member, splits in zip(members, rows, strict=True)]
    split = measuring_split(list(answers[0]))
    singles = [answered[split] for answered in answers]
    together = put_together(singles, how=how)
    section = members[0].recipe.evaluate
    sure: dict[str, Any] = {"resamples": section.resamples, "confidence": section.confidence}
    told = [
        {
            "run": member.name,
            "scores": {key: score.as_dict() for key, score in full_scores(single, section).items()},
            "comparison": compare(single, together, **sure).as_dict(),
        }
        for member, single in zip(members, singles, strict=True)
    ]
    predictions = np.stack([single.predictions for single in singles])
    alike_N = (predictions == predictions[0]).reshape(len(singles), len(together), -1).all(axis=(0, 2))
    return {
        "runs": [member.name for member in members],
        "how": how,
        "data": data,
        "split": split,
        "rows": len(together),
        "scores": {key: score.as_dict() for key, score in full_scores(together, section).items()},
        "singles": told,
        "all_agree": round(float(alike_N.mean()), 4),
    }


def put_together(singles: Sequence[Answered], *, how: str) -> Answered:
    """Return what several models answer together for the same rows.

    Args:
        singles: Answers of each model, for the same ids in the same order.
        how: mean: the mean of the probabilities; vote: the share of the models that give the answer, the mean where votes are even.

    Raises:
        ValueError: if they are not answers for the same rows and labels.
    """
    first = singles[0]
    if any(not np.array_equal(first.ids_N, one.ids_N) or first.labels != one.labels for one in singles):
        raise ValueError("the models answered other rows or have other labels")
    mean_NC = np.mean([one.probabilities_NC for one in singles], axis=0)
    if how == "vote":
        votes_NC = np.mean([one.predictions_NC for one in singles], axis=0)
        if first.multi_label:
            mean_NC = np.where(votes_NC == THRESHOLD, mean_NC, votes_NC)
        else:
            mean_NC = (votes_NC + TIE_BREAK * mean_NC) / (1 + TIE_BREAK)
    return Answered(first.ids_N, mean_NC, first.truth, first.labels, first.multi_label)
