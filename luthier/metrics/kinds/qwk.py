"""QWK: Cohen's kappa with quadratic weights, for classes in an order.

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
class Qwk(Metric):
    """Agreement of truth and answers beyond chance, where an answer two classes off counts four times one that is one off.

    1 where all agree, 0 where answers are no better than drawn from their own shares; undefined for multi-label, and where truth and
    answers are one and the same class throughout.

    Reference: J. Cohen, Weighted kappa, 1968.
    """

    keys = ("qwk",)
    bounds = (-1.0, 1.0)
    ordered = True

    def values(self, answered: Answered) -> Values:
        """Return the agreement."""
        from sklearn.metrics import cohen_kappa_score

        if answered.multi_label or np.ptp([answered.truth, answered.predictions]) == 0:
            return {"qwk": None}
        every = np.arange(answered.num_classes)
        return {"qwk": float(cohen_kappa_score(answered.truth, answered.predictions, labels=every, weights="quadratic"))}

    def resampled(self, answered: Answered, counts_RN: np.ndarray) -> dict[str, np.ndarray]:
        """Return the agreement of each resample."""
        if answered.multi_label:
            return {"qwk": np.full(len(counts_RN), np.nan)}
        truth_N, answer_N = answered.truth.astype(np.float64), answered.predictions.astype(np.float64)
        number_R = counts_RN.sum(axis=1)
        apart_R = number_R * (counts_RN @ (truth_N - answer_N) ** 2)
        by_chance_R = number_R * (counts_RN @ (truth_N**2 + answer_N**2)) - 2 * (counts_RN @ truth_N) * (counts_RN @ answer_N)
        share_R = np.divide(apart_R, by_chance_R, out=np.full(len(counts_RN), np.nan), where=by_chance_R != 0)
        return {"qwk": 1 - share_R}

    @classmethod
    def example(cls) -> Worked:
        """One of four is one class off; by chance 1/2 * 3/4 + 1/2 * 1/4 of them, two, would be: 1 - 1/2."""
        return Worked(cls(), four_rows(), {"qwk": 1 / 2})
