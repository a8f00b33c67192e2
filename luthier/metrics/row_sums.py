"""Scores that are made from sums over rows: counts of right spans, squared errors, ranks, n-grams that match.

Shapes: N rows, K numbers of each, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from luthier.metrics.found import Found
from luthier.metrics.intervals import Score, draw

AT_ONCE = 4_000_000  # counts held at once: 32 MB

Formula = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""From sums `(R, K)` to each score `(R,)`; not a number where it is undefined."""


@dataclass(frozen=True, eq=False)
class RowSums(Found):
    """K numbers of each of N rows, and how their sums become scores.

    Args:
        ids_N: Sample ids.
        columns_NK: The numbers of each row, float64.
        formula: From sums to scores.
        primary: The score that two models are compared by.
        greater_is_better: Direction of that score.
        details: What stands behind the scores of all rows, as plain data: `per_class` and `mistakes` are shown in the report.

    Example:
        >>> right = RowSums(np.arange(2), np.array([[1.0, 2.0], [1.0, 2.0]]), lambda sums_RK: {"accuracy": sums_RK[:, 0] / sums_RK[:, 1]})
        >>> right.scores(resamples=0)["accuracy"].value
        0.5
    """

    ids_N: np.ndarray
    columns_NK: np.ndarray
    formula: Formula
    primary: str = "accuracy"
    greater_is_better: bool = True
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.columns_NK.shape[:1] != self.ids_N.shape or self.columns_NK.ndim != 2:
            raise ValueError(f"one line of numbers for each of {len(self.ids_N)} rows wanted, got shape {self.columns_NK.shape}")
        if not len(self.ids_N):
            raise ValueError("there are no rows to score")

    def select(self, mask_N: np.ndarray) -> RowSums:
        """Return the rows where `mask_N` is true, without what stands behind all of them."""
        return RowSums(self.ids_N[mask_N], self.columns_NK[mask_N], self.formula, self.primary, self.greater_is_better)

    def scores(
        self, *, keys: Sequence[str] | None = None, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
    ) -> dict[str, Score]:
        """Return the scores by key, each with a percentile bootstrap interval over rows; see `Found.scores`."""
        values = self.formula(self.columns_NK.sum(0, keepdims=True))
        drawn = self.formula(resampled_sums(self.columns_NK, resamples, seed)) if resamples else {}
        edges = [(1 - confidence) / 2, (1 + confidence) / 2]
        return {key: _score(float(values[key][0]), drawn.get(key), edges) for key in (keys or values)}

    def compared_with(self, base: RowSums, *, resamples: int, confidence: float) -> dict[str, Any]:
        """Return how the primary score stands against another model's, by resampling the rows in pairs.

        Returns:
            `metric`, `base`, `tuned`, `difference` (tuned - base) with `low` and `high`, and `verdict`.

        Raises:
            ValueError: if the two are not about the same rows.
        """
        mine, theirs = np.argsort(self.ids_N), np.argsort(base.ids_N)
        if not np.array_equal(self.ids_N[mine], base.ids_N[theirs]):
            raise ValueError("the two models were measured on different rows")
        both_NK = np.concatenate([self.columns_NK[mine], base.columns_NK[theirs]], axis=1)
        split = self.columns_NK.shape[1]

        def of_both(sums_RK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return self.formula(sums_RK[:, :split])[self.primary], base.formula(sums_RK[:, split:])[self.primary]

        tuned_1, base_1 = of_both(both_NK.sum(0, keepdims=True))
        tuned_R, base_R = of_both(resampled_sums(both_NK, resamples, 0))
        low, high = np.nanquantile(tuned_R - base_R, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
        up, down = ("better", "worse") if self.greater_is_better else ("worse", "better")
        verdict = up if low > 0 else down if high < 0 else "no difference shown"
        found = {"base": float(base_1[0]), "tuned": float(tuned_1[0]), "difference": float(tuned_1[0] - base_1[0])}
        return {"metric": self.primary, **found, "low": low, "high": high, "verdict": verdict}

    def behind(self, *, resamples: int) -> dict[str, Any]:
        """Return the details of the task."""
        return {**self.details, "resamples": resamples}


def resampled_sums(columns_NK: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return the sums of each column over bootstrap resamples of the rows, `(R, K)`."""
    rng, size = np.random.default_rng(seed), max(1, AT_ONCE // len(columns_NK))
    parts = [draw(len(columns_NK), min(size, resamples - start), rng) @ columns_NK for start in range(0, resamples, size)]
    return np.concatenate(parts)


def _score(value: float, drawn_R: np.ndarray | None, edges: list[float]) -> Score:
    if not np.isfinite(value):
        return Score(None)
    if drawn_R is None or not np.isfinite(drawn_R).any():
        return Score(value)
    low, high = np.nanquantile(drawn_R, edges).tolist()
    return Score(value, low, high, len(drawn_R))
