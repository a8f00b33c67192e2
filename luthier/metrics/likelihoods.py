"""How likely a model finds the tokens of a set of rows: loss, perplexity, token accuracy.

Shapes: N rows, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from luthier.metrics.found import Found
from luthier.metrics.intervals import Score
from luthier.metrics.row_sums import RowSums

SCORES = ("loss", "perplexity", "token_accuracy")
MOST_NATS = 700.0  # the exponential of more is no number


@dataclass(frozen=True, eq=False)
class Likelihoods(Found):
    """What a model found of the supervised tokens of N rows.

    Args:
        ids_N: Sample ids.
        nats_N: Negative log-probability of each row's tokens, summed, in nats.
        tokens_N: How many tokens that were; at least 1 each.
        right_N: How many of them were the most likely one.
    """

    ids_N: np.ndarray
    nats_N: np.ndarray
    tokens_N: np.ndarray
    right_N: np.ndarray

    def select(self, mask_N: np.ndarray) -> Likelihoods:
        """Return the rows where `mask_N` is true."""
        return Likelihoods(self.ids_N[mask_N], self.nats_N[mask_N], self.tokens_N[mask_N], self.right_N[mask_N])

    def scores(
        self, *, keys: Sequence[str] | None = None, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
    ) -> dict[str, Score]:
        """Return loss (nats a token), perplexity and token accuracy, each with a bootstrap interval over rows; see `Found.scores`."""
        return self._sums.scores(keys=keys, resamples=resamples, confidence=confidence, seed=seed)

    def compared_with(self, base: Likelihoods, *, resamples: int = 1000, confidence: float = 0.95) -> dict[str, Any]:
        """Return how the loss stands against another model's on the same rows, row by row; see `RowSums.compared_with`.

        Raises:
            ValueError: if the two are not about the same tokens of the same rows.
        """
        if not np.array_equal(base.tokens_N[np.argsort(base.ids_N)], self.tokens_N[np.argsort(self.ids_N)]):
            raise ValueError("the two models were measured on different rows")
        return self._sums.compared_with(base._sums, resamples=resamples, confidence=confidence)

    def behind(self, *, resamples: int) -> dict[str, Any]:
        """Return how many tokens there were."""
        return {"num_tokens": int(self.tokens_N.sum()), "resamples": resamples}

    @cached_property
    def _sums(self) -> RowSums:
        return likelihood_sums(self.ids_N, self.nats_N, self.right_N, self.tokens_N)


def likelihood_sums(
    ids_N: np.ndarray, nats_N: np.ndarray, right_N: np.ndarray, tokens_N: np.ndarray, details: Mapping[str, Any] | None = None
) -> RowSums:
    """Return loss, perplexity and token accuracy as sums over rows; the arguments are those of `Likelihoods`.

    Args:
        ids_N: Sample ids.
        nats_N: Negative log-probability of each row's tokens, summed, in nats.
        right_N: How many of them were the most likely one.
        tokens_N: How many there are; at least 1 each.
        details: What stands behind the scores.
    """
    columns_N3 = np.stack([nats_N, right_N, tokens_N], axis=1).astype(np.float64)
    return RowSums(ids_N, columns_N3, _of_sums, primary="loss", greater_is_better=False, details=details or {})


def _of_sums(sums_R3: np.ndarray) -> dict[str, np.ndarray]:
    nats_R, right_R, tokens_R = sums_R3.T
    loss_R = nats_R / tokens_R
    return {"loss": loss_R, "perplexity": np.exp(np.minimum(loss_R, MOST_NATS)), "token_accuracy": right_R / tokens_R}
