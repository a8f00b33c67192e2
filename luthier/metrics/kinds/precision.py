"""Precision: of the rows answered with a class, the share that are of it.

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
class Precision(Metric):
    """Share of the rows answered with a class that are of it, averaged over classes: macro, micro, weighted.

    It is 0 for a class that has no such rows.
    """

    keys = keys("precision")

    def values(self, answered: Answered) -> Values:
        """Return the three averages."""
        from sklearn.metrics import precision_score

        return by_sklearn("precision", precision_score, answered)

    def resampled(self, answered: Answered, counts_RN: np.ndarray) -> dict[str, np.ndarray]:
        """Return the three averages of each resample."""
        counted = tally(answered, counts_RN)
        return averages("precision", counted.hits_CR, counted.predicted_CR, counted)

    @classmethod
    def example(cls) -> Worked:
        """Answered 'no' three times, twice rightly; 'yes' once, rightly: (2/3 + 1) / 2."""
        return Worked(cls(), four_rows(), dict(zip(cls.keys, (5 / 6, 3 / 4, 5 / 6), strict=True)))
