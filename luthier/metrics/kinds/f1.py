"""F1: the harmonic mean of precision and recall.

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
class F1(Metric):
    """Harmonic mean of precision and recall of a class, averaged over classes: macro, micro, weighted.

    It is 0 for a class that has no such rows.
    """

    keys = keys("f1")

    def values(self, answered: Answered) -> Values:
        """Return the three averages."""
        from sklearn.metrics import f1_score

        return by_sklearn("f1", f1_score, answered)

    def resampled(self, answered: Answered, counts_RN: np.ndarray) -> dict[str, np.ndarray]:
        """Return the three averages of each resample."""
        counted = tally(answered, counts_RN)
        return averages("f1", 2 * counted.hits_CR, counted.truth_CR + counted.predicted_CR, counted)

    @classmethod
    def example(cls) -> Worked:
        """F1 of 'no' is 2*2/(2+3), of 'yes' 2*1/(2+1): (4/5 + 2/3) / 2."""
        return Worked(cls(), four_rows(), dict(zip(cls.keys, (11 / 15, 3 / 4, 11 / 15), strict=True)))
