"""Where training reads from: windows of micro-batches, one window an optimiser step, resumable at any step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from luthier.core.work import Batch
from luthier.data.batches import training_order


class EpochSource:
    """Passes over a prepared split, in an order that depends on seed and epoch only.

    Args:
        lengths_N: Length of each row in tokens.
        load: Makes the batch of some row indices in some epoch.
        batch_size: Rows in a micro-batch.
        accumulate: Micro-batches in one window.
        seed: Seed of the order.
        by_length: Put rows of like length together.
    """

    def __init__(
        self,
        lengths_N: np.ndarray,
        load: Callable[[np.ndarray, int], Batch],
        *,
        batch_size: int,
        accumulate: int,
        seed: int,
        by_length: bool = True,
    ) -> None:
        self._lengths_N, self._load = lengths_N, load
        self._batch_size, self._accumulate = batch_size, accumulate
        self._seed, self._by_length = seed, by_length
        self._epoch, self._window = 0, 0

    @property
    def steps_per_epoch(self) -> int:
        """Windows in one epoch; the last one may be smaller."""
        return math.ceil(math.ceil(len(self._lengths_N) / self._batch_size) / self._accumulate)

    @property
    def num_rows(self) -> int:
        """Rows in one epoch."""
        return len(self._lengths_N)

    def __iter__(self) -> Iterator[list[Batch]]:
        """Yield windows without end, from where the state stands."""
        while True:
            batches = training_order(
                self._lengths_N, batch_size=self._batch_size, seed=self._seed, epoch=self._epoch, by_length=self._by_length
            )
            for start in range(self._window * self._accumulate, len(batches), self._accumulate):
                window = [self._load(rows, self._epoch) for rows in batches[start : start + self._accumulate]]
                self._window += 1
                yield window
            self._epoch, self._window = self._epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the place reached: epoch, and windows taken of it."""
        return {"epoch": self._epoch, "window": self._window}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a place that `state_dict` gave."""
        self._epoch, self._window = state["epoch"], state["window"]
