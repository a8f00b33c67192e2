"""How likely a model finds the tokens of a set of rows: loss, perplexity, token accuracy, and two models compared.

Shapes: N rows, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from luthier.metrics.intervals import Score, draw

SCORES = ("loss", "perplexity", "token_accuracy")
AT_ONCE = 4_000_000  # counts held at once: 32 MB


@dataclass(frozen=True, eq=False)
class Likelihoods:
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

    def __len__(self) -> int:
        return len(self.ids_N)

    def select(self, mask_N: np.ndarray) -> Likelihoods:
        """Return the rows where `mask_N` is true."""
        return Likelihoods(self.ids_N[mask_N], self.nats_N[mask_N], self.tokens_N[mask_N], self.right_N[mask_N])


def likelihood_scores(
    found: Likelihoods, *, keys: Sequence[str] | None = None, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Score]:
    """Return loss (nats a token), perplexity and token accuracy, each with a bootstrap interval over rows.

    Args:
        found: The rows.
        keys: Which scores; None means all.
        resamples: Bootstrap resamples; 0 gives the values alone.
        confidence: Share of resamples within the interval.
        seed: Seed of the resamples.
    """
    columns_N3 = np.stack([found.nats_N, found.right_N, found.tokens_N], axis=1).astype(np.float64)
    nats, right, tokens = columns_N3.sum(0)
    values = {"loss": nats / tokens, "perplexity": _exp(nats / tokens), "token_accuracy": right / tokens}
    scores = {key: Score(float(value)) for key, value in values.items()}
    if resamples:
        sums_R3 = resampled_sums(columns_N3, resamples, seed)
        loss_R, accuracy_R = sums_R3[:, 0] / sums_R3[:, 2], sums_R3[:, 1] / sums_R3[:, 2]
        edges = [(1 - confidence) / 2, (1 + confidence) / 2]
        ends = {"loss": np.quantile(loss_R, edges).tolist(), "token_accuracy": np.quantile(accuracy_R, edges).tolist()}
        ends["perplexity"] = [_exp(end) for end in ends["loss"]]
        scores = {key: Score(score.value, ends[key][0], ends[key][1], resamples) for key, score in scores.items()}
    return {key: scores[key] for key in (keys or SCORES)}


def compare_losses(
    base: Likelihoods, tuned: Likelihoods, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """Compare two models on the same rows by their loss, row by row.

    Args:
        base: The model before tuning.
        tuned: The model after it.
        resamples: Paired bootstrap resamples.
        confidence: Share of resamples within the interval of the difference.
        seed: Seed of the resamples.

    Returns:
        `base`, `tuned`, `difference` (tuned - base) with `low` and `high`, and `verdict`: better where the whole interval is below 0.

    Raises:
        ValueError: if the two are not about the same rows.
    """
    order_b, order_t = np.argsort(base.ids_N), np.argsort(tuned.ids_N)
    if not np.array_equal(base.ids_N[order_b], tuned.ids_N[order_t]) or not np.array_equal(base.tokens_N[order_b], tuned.tokens_N[order_t]):
        raise ValueError("the two models were measured on different rows")
    columns_N2 = np.stack([tuned.nats_N[order_t] - base.nats_N[order_b], tuned.tokens_N[order_t]], axis=1).astype(np.float64)
    sums_R2 = resampled_sums(columns_N2, resamples, seed)
    low, high = np.quantile(sums_R2[:, 0] / sums_R2[:, 1], [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    tokens = float(tuned.tokens_N.sum())
    verdict = "better" if high < 0 else "worse" if low > 0 else "no difference shown"
    before, after = float(base.nats_N.sum()) / tokens, float(tuned.nats_N.sum()) / tokens
    return {"metric": "loss", "base": before, "tuned": after, "difference": after - before, "low": low, "high": high, "verdict": verdict}


def resampled_sums(columns_NK: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return the sums of each column over bootstrap resamples of the rows, `(R, K)`."""
    rng, size = np.random.default_rng(seed), max(1, AT_ONCE // len(columns_NK))
    parts = [draw(len(columns_NK), min(size, resamples - start), rng) @ columns_NK for start in range(0, resamples, size)]
    return np.concatenate(parts)


def _exp(loss: float) -> float:
    return math.exp(min(loss, 700.0))
