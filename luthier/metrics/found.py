"""What a model answered for a set of rows, with the truth, whatever the task: where scores, comparisons and pages begin.

Shapes: N rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    import numpy as np

    from luthier.metrics.intervals import Score


class Found(ABC):
    """Base of what is found of N rows, abstract; the order of the rows is free, their ids are unique.

    Attributes:
        ids_N: Sample ids.
        baseline: What the untuned model that is compared with is called.
        slice_scores: The scores that each slice has; empty: all.
    """

    ids_N: np.ndarray
    baseline: ClassVar[str] = "the untuned model"
    slice_scores: ClassVar[tuple[str, ...]] = ()

    def __len__(self) -> int:
        return len(self.ids_N)

    @abstractmethod
    def select(self, mask_N: np.ndarray) -> Self:
        """Return the rows where `mask_N` is true."""

    @abstractmethod
    def scores(
        self, *, keys: Sequence[str] | None = None, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
    ) -> dict[str, Score]:
        """Return the scores by key, each with a bootstrap interval over rows.

        Args:
            keys: Which; None means all.
            resamples: Bootstrap resamples; 0 gives the values alone.
            confidence: Share of resamples within the interval.
            seed: Seed of the resamples.
        """

    @abstractmethod
    def compared_with(self, base: Self, *, resamples: int, confidence: float) -> dict[str, Any]:
        """Return how these answers stand against those of another model on the same rows, for `evaluation.json`.

        Args:
            base: What the other model found.
            resamples: Paired bootstrap resamples.
            confidence: Share of resamples within the interval of the difference.
        """

    @abstractmethod
    def behind(self, *, resamples: int) -> dict[str, Any]:
        """Return what stands behind the scores, as plain data for `evaluation.json`; each of its `mistakes` has the `id` of its row."""
