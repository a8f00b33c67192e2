"""How the batches of several tasks follow one another. K tasks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from luthier.data.section import MixingSection
from luthier.data.source import Order

DRAW = 2  # tells the generator of the mixture from those of an order


@dataclass(frozen=True, eq=False)
class Mixture:
    """Batches of several tasks, each of one task: a pure function of the tasks' orders, seed and epoch, so that a resume finds it again.

    A task that has more batches in an epoch than its rows make begins another pass over them; one that has fewer goes on in the next epoch.

    Args:
        orders: The order of each task's own rows; their rows are numbered one after the other.
        mixing: Which task has how many batches, and when.
        seed: Seed of the run.

    Reference: sampling by temperature, Arivazhagan et al., https://arxiv.org/abs/1907.05019
    """

    orders: Sequence[Order]
    mixing: MixingSection
    seed: int

    @cached_property
    def lengths_N(self) -> np.ndarray:
        """Length of each row of all tasks in tokens."""
        return np.concatenate([order.lengths_N for order in self.orders])

    @property
    def batch_size(self) -> int:
        """Rows in a batch; not used where there is a token budget."""
        return self.orders[0].batch_size

    @property
    def batch_tokens(self) -> int | None:
        """Most tokens in a batch, padding included."""
        return self.orders[0].batch_tokens

    @cached_property
    def num_batches(self) -> int:
        """Batches in an epoch: as many as the rows of all tasks make."""
        return sum(order.num_batches for order in self.orders)

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Batches of each task in an epoch, at least one."""
        if self.mixing.sampling == "proportional":
            return tuple(order.num_batches for order in self.orders)
        power = 1 / self.mixing.temperature if self.mixing.sampling == "temperature" else 0.0
        shares_K = np.array([float(len(order.lengths_N)) ** power for order in self.orders])
        return apportioned(shares_K / shares_K.sum(), self.num_batches)

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Return the row indices of each batch of an epoch.

        Args:
            epoch: Number of the epoch, from 0.
        """
        starts = np.cumsum([0, *(len(order.lengths_N) for order in self.orders)])
        of_task = [self._of_task(task, epoch) for task in range(len(self.orders))]
        return [next(of_task[task]) + starts[task] for task in self._turns(epoch)]

    def _turns(self, epoch: int) -> list[int]:
        """Return which task each batch of an epoch is of."""
        if self.mixing.sampling == "round-robin":
            return [number % len(self.orders) for number in range(self.num_batches)]
        turns = np.repeat(np.arange(len(self.orders)), self.counts)
        return [int(task) for task in np.random.default_rng((self.seed, epoch, DRAW)).permutation(turns)]

    def _of_task(self, task: int, epoch: int) -> Iterator[np.ndarray]:
        """Yield the batches of one task from where an epoch begins, pass after pass."""
        order = self.orders[task]
        own_pass, number = divmod(epoch * self.counts[task], order.num_batches)
        while True:
            yield from order.batches(own_pass)[number:]
            own_pass, number = own_pass + 1, 0


def apportioned(shares_K: np.ndarray, total: int) -> tuple[int, ...]:
    """Return whole numbers that add up to a total, as near to the shares as can be, each at least 1.

    Args:
        shares_K: Parts of the whole, which add up to 1.
        total: What they are parts of; at least as many as there are shares.
    """
    exact = [float(share) * total for share in shares_K]
    whole = [max(1, math.floor(number + 1e-9)) for number in exact]
    places = range(len(whole))
    while sum(whole) < total:
        whole[max(places, key=lambda place: exact[place] - whole[place])] += 1
    while sum(whole) > total:
        whole[max((place for place in places if whole[place] > 1), key=lambda place: whole[place] - exact[place])] -= 1
    return tuple(whole)
