"""What a metric is: point values by scikit-learn, and the same values for many bootstrap resamples at once.

Shapes: N rows, C classes, R resamples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np

from luthier.metrics.answered import Answered

Values = dict[str, float | None]


def four_rows() -> Answered:
    """Return four rows to work examples on: truth no, no, yes, yes; answers no, no, yes, no."""
    probabilities_NC = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]])
    return Answered(np.arange(4), probabilities_NC, np.array([0, 0, 1, 1]), ("no", "yes"))


class Worked(NamedTuple):
    """A metric with a small set of answers and the values worked out by hand: the contract tests check it."""

    metric: Metric
    answered: Answered
    expected: Values


class Metric(ABC):
    """Base of every metric, abstract: a file in `luthier/metrics/kinds/` derives one final class from it.

    Attributes:
        registered_name: Name in the registry, set by it.
        keys: Score keys the metric gives, such as `f1_macro`.
        greater_is_better: Direction of all its keys.
        bounds: Least and greatest value of all its keys.
        mirrored: Whether noise moves it one way only, as it moves a sum of distances up, and resampling once more: its
            interval is then mirrored at the value (basic bootstrap), which takes the shift back instead of doubling it.
        ordered: Whether it is about classes in an order; it is measured only where they are.
    """

    registered_name: ClassVar[str]
    keys: ClassVar[tuple[str, ...]]
    greater_is_better: ClassVar[bool] = True
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    mirrored: ClassVar[bool] = False
    ordered: ClassVar[bool] = False

    @abstractmethod
    def values(self, answered: Answered) -> Values:
        """Return the value of each key; None where it is undefined for these answers."""

    @abstractmethod
    def resampled(self, answered: Answered, counts_RN: np.ndarray) -> dict[str, np.ndarray]:
        """Return the values for R resamples of the rows at once.

        Args:
            answered: The rows.
            counts_RN: How often each row was drawn in each resample (float64, whole numbers, 0 or more). A row drawn
                twice counts like two equal rows, one not drawn like none.

        Shape:
            Each array: `(R,)`, not a number where the value is undefined for that resample.
        """

    @classmethod
    @abstractmethod
    def example(cls) -> Worked:
        """Return a small case with the values worked out by hand."""
