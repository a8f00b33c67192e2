"""Where training reads from: windows of micro-batches, one window an optimiser step, resumable at any step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from luthier.core.work import Batch
from luthier.data.batches import training_order

Load = Callable[[np.ndarray, int], Batch]


@dataclass(frozen=True)
class Share:
    """Which part of each micro-batch this process computes: rows `rank`, `rank + size`, ... of it."""

    rank: int = 0
    size: int = 1


EVERYTHING = Share()


@dataclass(frozen=True)
class Window:
    """The rows of one optimiser step on all processes: where it stands, and the rows of each micro-batch."""

    epoch: int
    number: int
    batches: list[np.ndarray]

    @property
    def rows(self) -> np.ndarray:
        """All row indices of the step."""
        return np.concatenate(self.batches)

    @property
    def num_rows(self) -> int:
        """How many rows the step has."""
        return sum(map(len, self.batches))


class EpochSource:
    """Passes over a prepared split, in an order that depends on seed and epoch only: not on processes, workers or resumes.

    Args:
        lengths_N: Length of each row in tokens.
        load: Makes the batch of some row indices in some epoch.
        batch_size: Rows in a micro-batch, on all processes together.
        accumulate: Micro-batches in one window.
        seed: Seed of the order.
        by_length: Put rows of like length together.
        num_workers: Processes that load ahead; 0 loads in this one.
        share: What this process computes of each micro-batch.
    """

    def __init__(
        self,
        lengths_N: np.ndarray,
        load: Load,
        *,
        batch_size: int,
        accumulate: int,
        seed: int,
        by_length: bool = True,
        num_workers: int = 0,
        share: Share = EVERYTHING,
    ) -> None:
        self._lengths_N, self._load = lengths_N, load
        self._batch_size, self._accumulate = batch_size, accumulate
        self._seed, self._by_length = seed, by_length
        self._num_workers, self._share = num_workers, share
        self._epoch, self._window = 0, 0
        self._taken: Window | None = None
        self._most_rows, self._halvings = batch_size, 0

    @property
    def steps_per_epoch(self) -> int:
        """Windows in one epoch; the last one may be smaller."""
        return math.ceil(math.ceil(len(self._lengths_N) / self._batch_size) / self._accumulate)

    @property
    def num_rows(self) -> int:
        """Rows in one epoch."""
        return len(self._lengths_N)

    @property
    def taken(self) -> Window:
        """The window that was handed out last."""
        assert self._taken is not None, "no window was taken yet"
        return self._taken

    @property
    def most_rows(self) -> int:
        """Most rows that this process puts through the model at once."""
        return self._most_rows

    @property
    def halvings(self) -> int:
        """How often micro-batches were halved since the run began."""
        return self._halvings

    @property
    def is_cut(self) -> bool:
        """Whether micro-batches are smaller than the recipe says, because memory ran out."""
        return self._most_rows < self._batch_size

    def __iter__(self) -> Iterator[list[Batch]]:
        """Yield windows without end, from where the state stands."""
        loaded = self._ahead() if self._num_workers else map(self._loaded, self._windows())
        for window in self._windows():
            batches = next(loaded)
            self._epoch, self._window, self._taken = window.epoch, window.number + 1, window
            if max(len(batch.ids) for batch in batches) > self._most_rows:
                batches = self.again()
            yield batches

    def again(self) -> list[Batch]:
        """Return the window that was handed out last once more, cut into micro-batches of at most `most_rows`."""
        return self._loaded(self.taken)

    def halve(self) -> None:
        """Cut micro-batches into halves from now on."""
        largest = max(math.ceil(len(rows) / self._share.size) for rows in self.taken.batches)
        self._most_rows = max(1, math.ceil(min(self._most_rows, largest) / 2))
        self._halvings += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the place reached: epoch, windows taken of it, and the size of micro-batches."""
        return {"epoch": self._epoch, "window": self._window, "most_rows": self._most_rows, "halvings": self._halvings}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a place that `state_dict` gave."""
        self._epoch, self._window = state["epoch"], state["window"]
        self._most_rows = min(state.get("most_rows", self._batch_size), self._batch_size)
        self._halvings = state.get("halvings", 0)

    def _windows(self) -> Iterator[Window]:
        """Yield windows without end, as plain numbers, from where the state stands."""
        epoch, number = self._epoch, self._window
        while True:
            batches = training_order(self._lengths_N, batch_size=self._batch_size, seed=self._seed, epoch=epoch, by_length=self._by_length)
            for start in range(number * self._accumulate, len(batches), self._accumulate):
                yield Window(epoch, start // self._accumulate, batches[start : start + self._accumulate])
            epoch, number = epoch + 1, 0

    def _loaded(self, window: Window) -> list[Batch]:
        return [batch for rows in window.batches for batch in self._mine(rows, window.epoch)]

    def _mine(self, rows: np.ndarray, epoch: int) -> Iterator[Batch]:
        """Yield this process's share of a micro-batch, in as many pieces as the largest share has; one without rows does not count."""
        mine = rows[self._share.rank :: self._share.size]
        for start in range(0, math.ceil(len(rows) / self._share.size), self._most_rows):
            piece = mine[start : start + self._most_rows]
            yield self._load(piece, epoch) if len(piece) else replace(self._load(rows[:1], epoch), counts=False)

    def _ahead(self) -> Iterator[list[Batch]]:
        from luthier.data.workers import load_ahead

        return load_ahead(self._loaded, self._windows(), num_workers=self._num_workers)
