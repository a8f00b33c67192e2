"""Precision, recall and F1 of spans: a span counts where both of its ends are right.

Shapes: N rows, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from luthier.metrics.row_sums import RowSums

SCORES = ("f1", "precision", "recall")
Places = Sequence[tuple[int, int]]


def compared_spans(
    ids_N: np.ndarray, said: Sequence[Places], right: Sequence[Places], kinds: Sequence[str], *, details: Mapping[str, Any] | None = None
) -> RowSums:
    """Return the scores over the spans of all rows, and those of each kind.

    Args:
        ids_N: Sample ids.
        said: Places of the spans that were found in each row.
        right: Places of the right ones.
        kinds: What was looked for in each row.
        details: What else stands behind the scores.
    """
    pairs = zip(said, right, strict=True)
    counts_N3 = np.array([(len({*mine} & {*theirs}), len({*mine}), len({*theirs})) for mine, theirs in pairs], np.float64).reshape(-1, 3)
    per_kind = []
    for kind in sorted(set(kinds)):
        sums_3 = counts_N3[np.array([one == kind for one in kinds])].sum(0)
        scores = {name: float(np.nan_to_num(value[0])) for name, value in _of_sums(sums_3[None]).items()}
        per_kind.append({"label": kind, **scores, "support": int(sums_3[2])})
    return RowSums(ids_N, counts_N3, _of_sums, "f1", True, {"per_class": per_kind, **(details or {})})


def _of_sums(sums_R3: np.ndarray) -> dict[str, np.ndarray]:
    both_R, said_R, right_R = sums_R3.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return {"f1": 2 * both_R / (said_R + right_R), "precision": both_R / said_R, "recall": both_R / right_R}
