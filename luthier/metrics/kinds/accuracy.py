"""Accuracy: the share of rows answered rightly.

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
class Accuracy(Metric):
    """Share of rows whose answer is the truth; for multi-label, whose every label is right (subset accuracy)."""

    keys = ("accuracy",)

    def values(self, answered: Answered) -> Values:
        """Return the accuracy."""
        from sklearn.metrics import accuracy_score

        return {"accuracy": float(accuracy_score(answered.truth, answered.predictions))}

    def resampled(self, answered: Answered, counts_RN: np.ndarray) -> dict[str, np.ndarray]:
        """Return the accuracy of each resample."""
        return {"accuracy": counts_RN @ answered.right_N / counts_RN.sum(axis=1)}

    @classmethod
    def example(cls) -> Worked:
        """Three of four rows are right."""
        return Worked(cls(), four_rows(), {"accuracy": 3 / 4})
