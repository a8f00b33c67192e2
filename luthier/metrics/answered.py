"""What a model answered for a set of rows, and the truth: the one input of every score.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from luthier.metrics.found import Found

if TYPE_CHECKING:
    from luthier.metrics.intervals import Score

THRESHOLD = 0.5
"""A label of a multi-label row is answered where its probability is at least this."""


@dataclass(frozen=True, eq=False)
class Answered(Found):
    """Probabilities of N rows over C labels, with the truth; order of rows is free, ids are unique.

    Args:
        ids_N: Sample ids, int64.
        probabilities_NC: In [0, 1], float64. Softmax rows that sum to 1; for multi-label independent sigmoids.
        truth: `truth_N` class indices (int64); for multi-label `truth_NC` (bool).
        labels: Names of the C classes, in column order.
        multi_label: Whether a row can have several labels, or none.
        ordered: Whether the classes stand in an order, lowest first.

    Raises:
        ValueError: for wrong shapes, no rows, ids given twice, values that are not finite, not probabilities or not classes.

    Example:
        >>> Answered(np.array([7]), np.array([[0.2, 0.8]]), np.array([1]), ("no", "yes")).predictions
        array([1])
    """

    baseline: ClassVar[str] = "nearest class centroid on the untuned embeddings"
    slice_scores: ClassVar[tuple[str, ...]] = ("accuracy", "f1_macro")

    ids_N: np.ndarray
    probabilities_NC: np.ndarray
    truth: np.ndarray
    labels: tuple[str, ...]
    multi_label: bool = False
    ordered: bool = False

    def __post_init__(self) -> None:
        set_field = object.__setattr__  # the dataclass is frozen
        set_field(self, "ids_N", np.asarray(self.ids_N, dtype=np.int64))
        set_field(self, "probabilities_NC", np.asarray(self.probabilities_NC, dtype=np.float64))
        set_field(self, "truth", np.asarray(self.truth, dtype=bool if self.multi_label else np.int64))
        set_field(self, "labels", tuple(self.labels))
        fault = self._fault_of_shapes() or self._fault_of_contents()
        if fault:
            raise ValueError(fault)

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return len(self.labels)

    @cached_property
    def predictions(self) -> np.ndarray:
        """The answers: most probable class `(N,)`; for multi-label every label at 0.5 or more `(N, C)`, bool."""
        if self.multi_label:
            return np.asarray(self.probabilities_NC >= THRESHOLD)
        return np.asarray(self.probabilities_NC.argmax(axis=1))

    @property
    def truth_NC(self) -> np.ndarray:
        """The truth with one bool column per label, for single-label rows too."""
        return self.truth if self.multi_label else np.asarray(self.truth[:, None] == np.arange(self.num_classes))

    @property
    def predictions_NC(self) -> np.ndarray:
        """The answers with one bool column per label, for single-label rows too."""
        return self.predictions if self.multi_label else np.asarray(self.predictions[:, None] == np.arange(self.num_classes))

    @cached_property
    def right_N(self) -> np.ndarray:
        """Whether the answer is the truth; for multi-label all labels must agree (exact match)."""
        agree = np.asarray(self.predictions == self.truth)
        return np.asarray(agree.all(axis=1)) if self.multi_label else agree

    def select(self, mask_N: np.ndarray) -> Answered:
        """Return the rows where `mask_N` is true (or the rows it lists, if it has integers)."""
        chosen = (self.ids_N[mask_N], self.probabilities_NC[mask_N], self.truth[mask_N])
        return Answered(*chosen, self.labels, self.multi_label, self.ordered)

    def scores(
        self, *, keys: Sequence[str] | None = None, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
    ) -> dict[str, Score]:
        """Return the scores of the room metrics; see `Found.scores`."""
        from luthier.metrics.intervals import scores

        return scores(self, keys=keys, resamples=resamples, confidence=confidence, seed=seed)

    def compared_with(self, base: Answered, *, resamples: int = 1000, confidence: float = 0.95) -> dict[str, Any]:
        """Return how often these answers are right where others are wrong; see `comparison.compare`."""
        from luthier.metrics.comparison import compare

        return compare(base, self, resamples=resamples, confidence=confidence).as_dict()

    def behind(self, *, resamples: int) -> dict[str, Any]:
        """Return labels, confusion matrix, scores of each class, calibration and the worst mistakes."""
        from luthier.metrics.details import details_of_classes

        return details_of_classes(self, resamples=resamples)

    def merge(self, others: Sequence[Answered]) -> Answered:
        """Put shards of one set together, sorted by id: the whole does not depend on how it was cut.

        Raises:
            ValueError: if the labels differ, or a row stands in two shards.
        """
        shards = [self, *others]
        if any((shard.labels, shard.multi_label) != (self.labels, self.multi_label) for shard in others):
            raise ValueError("shards to be merged have different labels")
        ids_N = np.concatenate([shard.ids_N for shard in shards])
        order_N = np.argsort(ids_N, kind="stable")
        probabilities_NC = np.concatenate([shard.probabilities_NC for shard in shards])[order_N]
        truth = np.concatenate([shard.truth for shard in shards])[order_N]
        return Answered(ids_N[order_N], probabilities_NC, truth, self.labels, self.multi_label, self.ordered)

    def _fault_of_shapes(self) -> str | None:
        num_rows, num_classes = self.ids_N.size, len(self.labels)
        if not num_rows:
            return "there are no rows to score"
        if self.ids_N.ndim != 1:
            return f"ids must be a list, got shape {self.ids_N.shape}"
        if self.probabilities_NC.shape != (num_rows, num_classes):
            return f"probabilities must be {(num_rows, num_classes)} for the ids and labels given, got {self.probabilities_NC.shape}"
        wanted = (num_rows, num_classes) if self.multi_label else (num_rows,)
        return None if self.truth.shape == wanted else f"truth must be {wanted}, got {self.truth.shape}"

    def _fault_of_contents(self) -> str | None:
        if len(np.unique(self.ids_N)) < len(self):
            values, times = np.unique(self.ids_N, return_counts=True)
            return f"id {values[times > 1][0]} stands for two rows"
        if not np.isfinite(self.probabilities_NC).all():
            row = int(np.argmin(np.isfinite(self.probabilities_NC).all(axis=1)))
            return f"the probabilities of id {self.ids_N[row]} are not finite"
        if self.probabilities_NC.min() < -1e-6 or self.probabilities_NC.max() > 1 + 1e-6:
            return "probabilities must lie in [0, 1]: were these logits?"
        if self.multi_label:
            return None
        if np.abs(self.probabilities_NC.sum(axis=1) - 1).max() > 1e-2:
            return "the probabilities of a row must sum to 1: is this multi-label?"
        outside_N = (self.truth < 0) | (self.truth >= self.num_classes)
        return f"truth {self.truth[outside_N][0]} is not one of {self.num_classes} classes" if outside_N.any() else None
