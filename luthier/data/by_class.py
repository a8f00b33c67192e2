"""An order in which some rows of each class stand together, for losses that compare rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from luthier.data.batches import training_order


@dataclass(frozen=True, eq=False)
class ClassOrder:
    """Batches of a few rows of each of some classes; each row comes once in an epoch, and a class's last rows may be fewer.

    Args:
        lengths_N: Length of each row in tokens.
        classes_N: Class number of each row.
        batch_size: Rows in a batch, at most.
        per_class: Rows of a class that stand together.
        seed: Seed of the run.
        by_length: Put classes whose rows are of like length together.

    Reference: batches of P classes with K rows each, Hermans et al., https://arxiv.org/abs/1703.07737
    """

    lengths_N: np.ndarray
    classes_N: np.ndarray
    batch_size: int
    per_class: int
    seed: int
    by_length: bool = True
    batch_tokens: int | None = None

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Return the row indices of each batch of an epoch, a pure function of its number from 0."""
        generator = np.random.default_rng((self.seed, epoch, 2))
        groups: list[np.ndarray] = []
        for rows in self._rows_of_classes:
            groups += np.split(generator.permutation(rows), range(self.per_class, len(rows), self.per_class))
        longest_G = np.array([int(self.lengths_N[rows].max()) for rows in groups])
        orders = training_order(longest_G, batch_size=self._groups, seed=self.seed, epoch=epoch, by_length=self.by_length)
        return [np.concatenate([groups[index] for index in chosen]) for chosen in orders]

    @cached_property
    def num_batches(self) -> int:
        """Batches in an epoch: the same in every epoch."""
        return math.ceil(sum(math.ceil(len(rows) / self.per_class) for rows in self._rows_of_classes) / self._groups)

    @property
    def _groups(self) -> int:
        return max(1, self.batch_size // self.per_class)

    @cached_property
    def _rows_of_classes(self) -> list[np.ndarray]:
        order = np.argsort(self.classes_N, kind="stable")
        starts = np.flatnonzero(np.diff(self.classes_N[order])) + 1
        return np.split(order, starts)
