"""In which order rows go through the model: shuffled, yet rows of like length together."""

from __future__ import annotations

import numpy as np

POOL_BATCHES = 32


def training_order(lengths_N: np.ndarray, *, batch_size: int, seed: int, epoch: int, by_length: bool = True) -> list[np.ndarray]:
    """Return the batches of one epoch; a pure function of its arguments, so that a resume finds the same order.

    All rows are shuffled; then pools of 32 batches are sorted by length and cut, and the batches are shuffled again.
    Padding stays low and every epoch is different.

    Args:
        lengths_N: Length of each row in tokens.
        batch_size: Rows in a batch; the last one may be smaller.
        seed: Seed of the run.
        epoch: Number of the epoch, from 0.
        by_length: Sort within pools; otherwise only shuffle.

    Returns:
        Row indices of each batch.
    """
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(len(lengths_N))
    if not by_length:
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    batches: list[np.ndarray] = []
    pool_size = batch_size * POOL_BATCHES
    for start in range(0, len(order), pool_size):
        pool = order[start : start + pool_size]
        pool = pool[np.argsort(lengths_N[pool], kind="stable")]
        batches += [pool[cut : cut + batch_size] for cut in range(0, len(pool), batch_size)]
    return [batches[index] for index in generator.permutation(len(batches))]


def evaluation_order(lengths_N: np.ndarray, *, max_tokens: int) -> list[np.ndarray]:
    """Return batches of like length for evaluation, longest first, each at most `max_tokens` with its padding.

    Args:
        lengths_N: Length of each row in tokens.
        max_tokens: Most tokens in a batch; a single longer row is a batch of its own.
    """
    order = np.argsort(-lengths_N, kind="stable")
    batches: list[np.ndarray] = []
    start = 0
    while start < len(order):
        size = max(1, max_tokens // max(int(lengths_N[order[start]]), 1))
        batches.append(order[start : start + size])
        start += size
    return batches
