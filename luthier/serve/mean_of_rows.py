"""What several models say of rows, as one, and how far they are apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from luthier.core.work import Answer, RowOutputs
from luthier.tasks.task import RowWork

SURENESS = ("probability", "score")


def mean_of_rows(work: RowWork, each: Sequence[RowOutputs]) -> RowOutputs:
    """Return the mean of what several models say of the same rows.

    Args:
        work: The task of all of them.
        each: What each says, in the same order of the rows.
    """
    return RowOutputs.of(each[0].ids.tolist(), [work.mean_said(said) for said in zip(*(one.said for one in each), strict=True)])


def decided(label: Any) -> Any:
    """Return an answer without how sure the model is of it."""
    return {key: value for key, value in label.items() if key not in SURENESS} if isinstance(label, dict) else label


def with_spread(answer: Answer, own: Sequence[Answer]) -> Answer:
    """Return an answer with how sure several models are of it together.

    Args:
        answer: What they answer together.
        own: What each answers.

    Returns:
        The answer with `deviation`, of numbers: how far those of the models are apart; else `agreement`: the share of the models that
        give the answer. A vector has neither.

    Reference: B. Lakshminarayanan, A. Pritzel and C. Blundell, Simple and Scalable Predictive Uncertainty Estimation using Deep
        Ensembles, 2017.
    """
    if isinstance(answer.label, float):
        return answer._replace(uncertainty={"deviation": round(float(np.std([one.label for one in own])), 6)})
    if isinstance(answer.label, list):
        return answer
    agree = np.mean([decided(one.label) == decided(answer.label) for one in own])
    return answer._replace(uncertainty={"agreement": round(float(agree), 6)})
