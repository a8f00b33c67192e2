"""How near predicted numbers are to the true ones: errors, and whether they rise and fall together.

Shapes: N rows, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import rankdata

from luthier.metrics.row_sums import RowSums

SCORES = ("mae", "rmse", "r2", "pearson", "spearman")


def compared_numbers(
    ids_N: np.ndarray, truth_N: np.ndarray, predicted_N: np.ndarray, *, primary: str, details: Mapping[str, Any] | None = None
) -> RowSums:
    """Return the errors and correlations of predicted numbers.

    Spearman's correlation is that of the ranks among all rows; its interval resamples rows with the ranks they have there.

    Args:
        ids_N: Sample ids.
        truth_N: The true numbers.
        predicted_N: The predicted ones.
        primary: The score that two models are compared by.
        details: What stands behind the scores.
    """
    truth_N, predicted_N = np.asarray(truth_N, np.float64), np.asarray(predicted_N, np.float64)
    error_N = predicted_N - truth_N
    middle = truth_N.mean()
    pairs = [(truth_N - middle, predicted_N - middle), (rankdata(truth_N) - len(truth_N) / 2, rankdata(predicted_N) - len(truth_N) / 2)]
    columns = [np.ones_like(truth_N), np.abs(error_N), error_N**2]
    columns += [column for one, other in pairs for column in (one, other, one * one, other * other, one * other)]
    greater = primary not in ("mae", "rmse")
    return RowSums(ids_N, np.stack(columns, axis=1), _of_sums, primary, greater, details or {})


def _of_sums(sums_RK: np.ndarray) -> dict[str, np.ndarray]:
    number_R, absolute_R, squared_R = sums_RK[:, :3].T
    plain_R5, ranks_R5 = sums_RK[:, 3:8], sums_RK[:, 8:13]
    spread_R = plain_R5[:, 2] - plain_R5[:, 0] ** 2 / number_R
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "mae": absolute_R / number_R,
            "rmse": np.sqrt(squared_R / number_R),
            "r2": np.where(spread_R > 0, 1 - squared_R / spread_R, np.nan),
            "pearson": _correlation(plain_R5, number_R),
            "spearman": _correlation(ranks_R5, number_R),
        }


def _correlation(sums_R5: np.ndarray, number_R: np.ndarray) -> np.ndarray:
    """Return the correlation of two columns from the sums of each, of their squares and of their product."""
    one_R, other_R, ones_R, others_R, both_R = sums_R5.T
    spread_R = np.maximum(ones_R - one_R**2 / number_R, 0) * np.maximum(others_R - other_R**2 / number_R, 0)
    return np.where(spread_R > 0, (both_R - one_R * other_R / number_R) / np.sqrt(spread_R), np.nan)
