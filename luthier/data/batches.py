"""In which order rows go through the model: shuffled, yet rows of like length together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

POOL_BATCHES = 128
LENGTH_NOISE = 0.09  # each length is up to so much larger by chance before rows are sorted by it, else small sets would mix little
LIKE_LENGTH = 0.94  # of a token budget: rows down to this part of the longest one's length are cut together
FEWEST_BATCHES = 2  # ... and rows of at least so many batches, however unlike they are


@dataclass(frozen=True, eq=False)
class Order:
    """Which rows make each batch of each epoch: a pure function of lengths, seed and epoch, so that a resume finds it again.

    Args:
        lengths_N: Length of each row in tokens.
        batch_size: Rows in a batch; not used where there is a token budget.
        seed: Seed of the run.
        by_length: Put rows of like length together.
        batch_tokens: Most tokens in a batch, padding included; a single longer row is a batch of its own.
    """

    lengths_N: np.ndarray
    batch_size: int
    seed: int
    by_length: bool = True
    batch_tokens: int | None = None

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Return the row indices of each batch of an epoch.

        Args:
            epoch: Number of the epoch, from 0.
        """
        if self.batch_tokens is None:
            return training_order(self.lengths_N, batch_size=self.batch_size, seed=self.seed, epoch=epoch, by_length=self.by_length)
        generator = np.random.default_rng((self.seed, epoch))
        batches: list[np.ndarray] = []
        for rows, num_batches in self._layers:
            rows = generator.permutation(rows)
            if self.by_length:
                rows = rows[np.argsort(_noisy(self.lengths_N[rows], generator), kind="stable")]
            batches += np.array_split(rows, num_batches)
        return [batches[index] for index in generator.permutation(len(batches))]

    @cached_property
    def num_batches(self) -> int:
        """Batches in an epoch: the same in every epoch."""
        if self.batch_tokens is None:
            return math.ceil(len(self.lengths_N) / self.batch_size)
        return sum(num_batches for _, num_batches in self._layers)

    @cached_property
    def _layers(self) -> list[tuple[np.ndarray, int]]:
        """Groups of rows of like length, and how many batches each is cut into; they depend on the lengths only."""
        assert self.batch_tokens is not None
        if not self.by_length:
            rows = max(1, self.batch_tokens // max(int(self.lengths_N.max()), 1))
            return [(np.arange(len(self.lengths_N)), math.ceil(len(self.lengths_N) / rows))]
        longest_first = np.argsort(-self.lengths_N, kind="stable")
        return _layers_of(longest_first, self.lengths_N[longest_first], self.batch_tokens)


def training_order(lengths_N: np.ndarray, *, batch_size: int, seed: int, epoch: int, by_length: bool = True) -> list[np.ndarray]:
    """Return the batches of one epoch; a pure function of its arguments, so that a resume finds the same order.

    All rows are shuffled; then pools of 128 batches are sorted by length, give or take a little, and cut, and the
    batches are shuffled again.
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
    generator, noise = np.random.default_rng((seed, epoch)), np.random.default_rng((seed, epoch, 1))
    order = generator.permutation(len(lengths_N))
    if not by_length:
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    batches: list[np.ndarray] = []
    pool_size = batch_size * POOL_BATCHES
    for start in range(0, len(order), pool_size):
        pool = order[start : start + pool_size]
        pool = pool[np.argsort(_noisy(lengths_N[pool], noise), kind="stable")]
        batches += [pool[cut : cut + batch_size] for cut in range(0, len(pool), batch_size)]
    return [batches[index] for index in generator.permutation(len(batches))]


def _noisy(lengths: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return lengths of which those above 11 tokens are larger by chance."""
    return np.floor(lengths * (1 + LENGTH_NOISE * generator.random(len(lengths))))


def _layers_of(rows: np.ndarray, lengths: np.ndarray, batch_tokens: int) -> list[tuple[np.ndarray, int]]:
    """Cut rows, longest first, into layers of like length, each with the number of batches that its longest row asks for."""
    layers: list[tuple[np.ndarray, int]] = []
    start = 0
    while start < len(rows):
        longest = max(int(lengths[start]), 1)
        per_batch = max(1, batch_tokens // longest)
        alike = int(np.searchsorted(-lengths, -LIKE_LENGTH * longest, side="right"))
        end = min(max(alike, start + FEWEST_BATCHES * per_batch), len(rows))
        layers.append((rows[start:end], math.ceil((end - start) / per_batch)))
        start = end
    return layers


def pad_fraction(lengths_N: np.ndarray, batches: list[np.ndarray]) -> float:
    """Return the part of all tokens that is padding, where each batch is as wide as its longest row.

    Args:
        lengths_N: Length of each row in tokens.
        batches: Row indices of each batch.
    """
    padded = sum(int(lengths_N[rows].max()) * len(rows) for rows in batches)
    return 1 - sum(int(lengths_N[rows].sum()) for rows in batches) / padded


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
