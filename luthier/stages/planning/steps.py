"""The micro-batches of a run as they will come, from the lengths of its rows alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from luthier.data.batches import training_order
from luthier.data.prepared import Prepared
from luthier.recipe import Recipe
from luthier.stages.layout.feeding import horizon, most_tokens_at_once, order_of


@dataclass(frozen=True)
class Steps:
    """The micro-batches of the first epoch, as far as the run goes; later epochs have others of the same kind.

    Args:
        rows: Row indices of each micro-batch.
        padded_M: Tokens of each with its padding.
        longest_M: Length of the longest row of each.
        num_micro: Micro-batches of the whole run.
        num_steps: Optimiser steps of the whole run.
        steps_per_epoch: Optimiser steps of one epoch.
        tokens: Real tokens of the whole run.
        padded: Tokens of the whole run with padding.
    """

    rows: list[np.ndarray]
    padded_M: np.ndarray
    longest_M: np.ndarray
    num_micro: float
    num_steps: int
    steps_per_epoch: int
    tokens: float
    padded: float

    @property
    def largest(self) -> np.ndarray:
        """Rows of the micro-batch that needs most memory."""
        return self.rows[int(self.padded_M.argmax())]


def steps_of(recipe: Recipe, prepared: Prepared, device: str = "cpu") -> Steps:
    """Return the micro-batches of a run.

    Args:
        recipe: The recipe with every `auto` decided.
        prepared: Encoded rows.
        device: Device that it is to run on.
    """
    training, split = recipe.training, prepared.splits["train"]
    lengths_N = split.longest_window_N
    if split.members:
        batches = order_of(recipe, split).batches(0)
    else:
        batches = training_order(lengths_N, batch_size=training.rows, seed=training.seed, epoch=0, by_length=training.group_by_length)
    whole = horizon(recipe, split)
    share = whole.total_steps / whole.steps_per_epoch
    taken = batches[: max(1, min(len(batches), math.ceil(whole.total_steps * training.gradient_accumulation_steps)))]
    mean = share * len(batches) / len(taken)
    taken = list(_pieces(taken, lengths_N, most_tokens_at_once(recipe, device)))
    windows_N = np.maximum(1, np.ceil(split.num_tokens_N / np.maximum(lengths_N, 1)))
    longest_M = np.array([lengths_N[rows].max() for rows in taken])
    padded_M = np.array([windows_N[rows].sum() for rows in taken]) * longest_M
    num_micro = mean * len(taken)
    tokens = mean * float(sum(split.num_tokens_N[rows].sum() for rows in taken))
    return Steps(taken, padded_M, longest_M, num_micro, whole.total_steps, whole.steps_per_epoch, tokens, mean * float(padded_M.sum()))


def _pieces(batches: list[np.ndarray], lengths_N: np.ndarray, most_tokens: int | None) -> Iterator[np.ndarray]:
    """Yield batches, cut where they have too many tokens."""
    for rows in batches:
        size = len(rows) if most_tokens is None else max(1, most_tokens // max(int(lengths_N[rows].max()), 1))
        yield from (rows[start : start + size] for start in range(0, len(rows), size))
