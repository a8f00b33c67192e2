"""MCC: Matthews' correlation between truth and answers.

Shapes: N rows, C classes, R resamples.
"""

from __future__ import annotations

import warnings
from typing import final

import numpy as np

from luthier.metrics import metrics
from luthier.metrics.answered import Answered
from luthier.metrics.metric import Metric, Values, Worked, four_rows
from luthier.metrics.tally import ratio, tally


@final
@metrics.add
class Mcc(Metric):
    """Correlation of truth and answers in [-1, 1]; 0 where either has one class only, undefined for multi-label.

    Reference: J. Gorodkin, Comparing two K-category assignments by a K-category correlation coefficient, 2004.
    """

    keys = ("mcc",)
    bounds = (-1.0, 1.0)

    def values(self, answered: Answered) -> Values:
        """Return the correlation."""
        from sklearn.metrics import matthews_corrcoef

        if answered.multi_label:
            return {"mcc": None}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="A single label was found", category=UserWarning)
            return {"mcc": float(matthews_corrcoef(answered.truth, answered.predictions))}

    def resampled(self, answered: Answered, counts_RN: np.ndarray) -> dict[str, np.ndarray]:
        """Return the correlation of each resample."""
        if answered.multi_label:
            return {"mcc": np.full(len(counts_RN), np.nan)}
        counted = tally(answered, counts_RN)
        total_R = counted.truth_CR.sum(axis=0)
        covariance_R = counted.hits_CR.sum(axis=0) * total_R - (counted.truth_CR * counted.predicted_CR).sum(axis=0)
        of_truth_R = total_R**2 - (counted.truth_CR**2).sum(axis=0)
        of_predicted_R = total_R**2 - (counted.predicted_CR**2).sum(axis=0)
        return {"mcc": ratio(covariance_R, np.sqrt(of_truth_R * of_predicted_R))}

    @classmethod
    def example(cls) -> Worked:
        """Two true 'no', one true and no false 'yes', one missed: (2*1 - 0*1) / sqrt(1 * 2 * 2 * 3)."""
        return Worked(cls(), four_rows(), {"mcc": 2 / 12**0.5})
