"""MAE: how many classes answers are off, for classes in an order.

Shapes: N rows, R resamples.
"""

from __future__ import annotations

from typing import final

import numpy as np

from luthier.metrics import metrics
from luthier.metrics.answered import Answered
from luthier.metrics.metric import Metric, Values, Worked, four_rows


@final
@metrics.add
class Mae(Metric):
    """Mean distance between the answer and the truth, in classes; undefined for multi-label."""

    keys = ("mae",)
    greater_is_better = False
    bounds = (0.0, float("inf"))
    ordered = True

    def values(self, answered: Answered) -> Values:
        """Return the mean distance."""
        from sklearn.metrics import mean_absolute_error

        return {"mae": None if answered.multi_label else float(mean_absolute_error(answered.truth, answered.predictions))}

    def resampled(self, answered: Answered, counts_RN: np.ndarray) -> dict[str, np.ndarray]:
        """Return the mean distance of each resample."""
        if answered.multi_label:
            return {"mae": np.full(len(counts_RN), np.nan)}
        return {"mae": counts_RN @ np.abs(answered.truth - answered.predictions) / counts_RN.sum(axis=1)}

    @classmethod
    def example(cls) -> Worked:
        """One of four rows is one class off."""
        return Worked(cls(), four_rows(), {"mae": 1 / 4})
