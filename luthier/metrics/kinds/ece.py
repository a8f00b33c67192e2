"""ECE: the expected calibration error.

Shapes: N rows, K statements per row, B bins, R resamples.
"""

from __future__ import annotations

from typing import final

import numpy as np

from luthier.metrics import metrics
from luthier.metrics.answered import Answered
from luthier.metrics.calibration import NUM_BINS, bin_of, statements
from luthier.metrics.metric import Metric, Values, Worked


@final
@metrics.add
class Ece(Metric):
    """Mean distance between stated confidence and share right, over 15 bins of equal width, weighted by their size.

    Single-label: of the answer's probability. Multi-label: of the probabilities of all labels. Few rows make it too high
    (a perfectly calibrated model with 200 rows shows about 0.05), so read the low end of the interval too.

    Reference: C. Guo et al., On Calibration of Modern Neural Networks, 2017, equation 5.
    """

    keys = ("ece",)
    greater_is_better = False
    mirrored = True

    def values(self, answered: Answered) -> Values:
        """Return the error (scikit-learn has no function for it)."""
        return {"ece": float(self.resampled(answered, np.ones((1, len(answered))))["ece"][0])}

    def resampled(self, answered: Answered, counts_RN: np.ndarray) -> dict[str, np.ndarray]:
        """Return the error of each resample."""
        confidence_NK, right_NK = statements(answered)
        num_rows, num_statements = confidence_NK.shape
        place_NK = bin_of(confidence_NK) + NUM_BINS * np.arange(num_rows)[:, None]
        excess_NB = np.bincount(place_NK.ravel(), (right_NK - confidence_NK).ravel(), num_rows * NUM_BINS).reshape(num_rows, NUM_BINS)
        return {"ece": np.abs(counts_RN @ excess_NB).sum(axis=1) / (counts_RN.sum(axis=1) * num_statements)}

    @classmethod
    def example(cls) -> Worked:
        """Bin of 0.9: two rows, one right, so 0.4 off; bin of 0.8: one row, right, 0.2 off; of 0.7: wrong, 0.7 off."""
        probabilities_NC = np.array([[0.9, 0.1], [0.1, 0.9], [0.2, 0.8], [0.7, 0.3]])
        answered = Answered(np.arange(4), probabilities_NC, np.array([0, 0, 1, 1]), ("no", "yes"))
        return Worked(cls(), answered, {"ece": (2 * 0.4 + 0.2 + 0.7) / 4})
