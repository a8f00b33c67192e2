"""Recall: of the rows of a class, the share that are answered with it.

Shapes: C classes, R resamples.
"""

from __future__ import annotations

from typing import final

import numpy as np

from luthier.metrics import metrics
from luthier.metrics.answered import Answered
from luthier.metrics.metric import Metric, Values, Worked, four_rows
from luthier.metrics.tally import averages, by_sklearn, keys, tally


@final
@metrics.add
class Recall(Metric):
    """Share of the rows of a class that are answered with it, averaged over classes: macro, micro, weighted.

    It is 0 for a class that has no such rows.
    """

    keys = keys("recall")

    def values(self, answered: Answered) -> Values:
        """Return the three averages."""
        from sklearn.metrics import recall_score

        return by_sklearn("recall", recall_score, answered)

    def resampled(self, answered: Answered, counts_RN: np.ndarray) -> dict[str, np.ndarray]:
        """Return the three averages of each resample."""
        counted = tally(answered, counts_RN)
        return averages("recall", counted.hits_CR, counted.truth_CR, counted)

    @classmethod
    def example(cls) -> Worked:
        """Both rows of 'no' are found, one of the two of 'yes': (1 + 1/2) / 2."""
        return Worked(cls(), four_rows(), dict(zip(cls.keys, (3 / 4, 3 / 4, 3 / 4), strict=True)))
