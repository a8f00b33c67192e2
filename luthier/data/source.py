"""Where training reads from: windows of micro-batches, one window an optimiser step, resumable at any step."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from luthier.core.work import Batch

Load = Callable[[np.ndarray, int], Batch]


class Order(Protocol):
    """Which rows make each batch of each epoch: a pure function of the epoch."""

    @property
    def lengths_N(self) -> np.ndarray:
        """Length of each row in tokens."""

    @property
    def batch_size(self) -> int:
        """Rows in a batch; not used where there is a token budget."""

    @property
    def batch_tokens(self) -> int | None:
        """Most tokens in a batch, padding included."""

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Return the row indices of each batch of an epoch."""


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


class Ahead(Protocol):
    """Loads windows before they are asked for, in order, in a thread or in other processes; closing the iterator ends them."""

    def __call__(self, load: Callable[[Window], list[Batch]], wanted: Iterator[Window], /) -> Iterator[list[Batch]]:
        """Yield `load(window)` of each window."""


class EpochSource:
    """Passes over a prepared split, in an order that depends on seed and epoch only: not on processes, workers or resumes.

    Args:
        order: Which rows make each micro-batch, on all processes together.
        load: Makes the batch of some row indices in some epoch.
        accumulate: Micro-batches in one window.
        ahead: How windows are loaded ahead; none loads each when it is asked for.
        share: What this process computes of each micro-batch.
        most_tokens: Tokens, padding included, that this process puts through the model at once; larger micro-batches come in pieces.
    """

    def __init__(
        self,
        order: Order,
        load: Load,
        *,
        accumulate: int = 1,
        ahead: Ahead | None = None,
        share: Share = EVERYTHING,
        most_tokens: int | None = None,
    ) -> None:
        self._order, self._load, self._accumulate, self._most_tokens = order, load, accumulate, most_tokens
        self._ahead, self._share = ahead, share
        self._epoch, self._window = 0, 0
        self._taken: Window | None = None
        self._most, self._halvings = self._planned, 0

    @property
    def steps_per_epoch(self) -> int:
        """Windows in one epoch; the last one may be smaller."""
        return math.ceil(self._order.num_batches / self._accumulate)

    @property
    def num_rows(self) -> int:
        """Rows in one epoch."""
        return len(self._order.lengths_N)

    @property
    def taken(self) -> Window:
        """The window that was handed out last."""
        assert self._taken is not None, "no window was taken yet"
        return self._taken

    @property
    def most_rows(self) -> int:
        """Most rows of the window handed out last that this process puts through the model at once."""
        if self._order.batch_tokens is None and self._most_tokens is None:
            return self._most
        return max(min(self._piece(rows), math.ceil(len(rows) / self._share.size)) for rows in self.taken.batches)

    @property
    def halvings(self) -> int:
        """How often micro-batches were halved since the run began."""
        return self._halvings

    @property
    def is_cut(self) -> bool:
        """Whether micro-batches are smaller than the recipe says, because memory ran out."""
        return self._most < self._planned

    def __iter__(self) -> Iterator[list[Batch]]:
        """Yield windows without end, from where the state stands; what was loaded ahead and not handed out does not count."""
        loaded = self._ahead(self._loaded, self._windows()) if self._ahead else map(self._loaded, self._windows())
        try:
            for window in self._windows():
                batches = next(loaded)
                self._epoch, self._window, self._taken = window.epoch, window.number + 1, window
                if len(batches) < sum(map(self._num_pieces, window.batches)):  # loaded before micro-batches were halved
                    batches = self.again()
                yield batches
        finally:
            if isinstance(loaded, Generator):
                loaded.close()

    def again(self) -> list[Batch]:
        """Return the window that was handed out last once more, cut as micro-batches are cut now."""
        return self._loaded(self.taken)

    def halve(self) -> None:
        """Cut micro-batches into halves from now on: of rows, or of tokens where the batches have a budget of those."""
        largest = max(self._size(rows) for rows in self.taken.batches)
        self._most = max(1, math.ceil(min(self._most, largest) / 2))
        self._halvings += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the place reached: epoch, windows taken of it, and the size of micro-batches."""
        return {"epoch": self._epoch, "window": self._window, self._unit: self._most, "halvings": self._halvings}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a place that `state_dict` gave."""
        self._epoch, self._window = state["epoch"], state["window"]
        self._most = min(state.get(self._unit, self._planned), self._planned)
        self._halvings = state.get("halvings", 0)

    @property
    def _planned(self) -> int:
        """Size of a micro-batch as the recipe says: rows, or tokens."""
        return self._order.batch_tokens or self._order.batch_size

    @property
    def _unit(self) -> str:
        return "most_tokens" if self._order.batch_tokens else "most_rows"

    def _size(self, rows: np.ndarray) -> int:
        """Return how large this process's share of a micro-batch is, in rows or in tokens."""
        share = math.ceil(len(rows) / self._share.size)
        return share * int(self._order.lengths_N[rows].max()) if self._order.batch_tokens else share

    def _piece(self, rows: np.ndarray) -> int:
        """Return how many rows of a micro-batch go through the model at once."""
        longest = max(int(self._order.lengths_N[rows].max()), 1)
        most = self._most // longest if self._order.batch_tokens else self._most
        return max(1, most if self._most_tokens is None else min(most, self._most_tokens // longest))

    def _num_pieces(self, rows: np.ndarray) -> int:
        return math.ceil(math.ceil(len(rows) / self._share.size) / self._piece(rows))

    def _windows(self) -> Iterator[Window]:
        """Yield windows without end, as plain numbers, from where the state stands."""
        epoch, number = self._epoch, self._window
        while True:
            batches = self._order.batches(epoch)
            for start in range(number * self._accumulate, len(batches), self._accumulate):
                yield Window(epoch, start // self._accumulate, batches[start : start + self._accumulate])
            epoch, number = epoch + 1, 0

    def _loaded(self, window: Window) -> list[Batch]:
        return [batch for rows in window.batches for batch in self._mine(rows, window.epoch)]

    def _mine(self, rows: np.ndarray, epoch: int) -> Iterator[Batch]:
        """Yield this process's share of a micro-batch, in as many pieces as the largest share has; one without rows does not count."""
        mine, most = rows[self._share.rank :: self._share.size], self._piece(rows)
        for start in range(0, math.ceil(len(rows) / self._share.size), most):
            piece = mine[start : start + most]
            yield self._load(piece, epoch) if len(piece) else replace(self._load(rows[:1], epoch), counts=False)
