"""The processes that train one model together, seen from one of them; alone unless `distributed.py` says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from luthier.core.work import Parts
from luthier.training import checkpoint
from luthier.training.checkpoint import Saved
from luthier.training.checkpoint.keeping import Checkpoints, Keeping

T = TypeVar("T")


class World(Protocol):
    """What the loop asks of the other processes.

    Every method is called by all processes, in the same order.
    """

    @property
    def rank(self) -> int:
        """Number of this process, from 0; process 0 writes the run folder."""

    @property
    def size(self) -> int:
        """Number of processes."""

    @property
    def local_rank(self) -> int:
        """Number of this process on its machine, from 0."""

    @property
    def local_size(self) -> int:
        """Number of processes on this machine."""

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the values summed over all processes, in float64."""

    def agreed(self, number: int) -> int:
        """Return the largest of the processes' numbers."""

    def gathered(self, mine: T) -> list[T]:
        """Return everybody's object, by rank."""

    def shared(self, mine: T) -> T:
        """Return the object of process 0."""

    def syncing(self, parts: Parts, *, last: bool) -> AbstractContextManager[object]:
        """Return the context of one micro-batch; gradients are exchanged in the last one of a step."""

    def clip(self, parameters: list[torch.nn.Parameter], max_norm: float) -> float:
        """Shorten the gradient to `max_norm`; returns its norm before."""

    def spread(self, parts: Parts, *, how: str, seed: int) -> None:
        """Give every process the weights of process 0, or (fsdp2) its share of them, and dropout of its own."""

    def training(self, parts: Parts) -> Parts:
        """Return the parts as the loop calls them."""

    def load(self, folder: Path, saved: Saved) -> None:
        """Put everything into the state of a checkpoint."""

    def keeping(self, root: Path, saved: Saved, *, keep: int, check: Callable[[], None]) -> Keeping:
        """Return where checkpoints are kept."""

    @property
    def is_split(self) -> bool:
        """Whether each process holds only its share of the weights."""

    def has_lost(self, error: BaseException) -> bool:
        """Whether an error says that another process is gone."""

    def leave(self) -> None:
        """Wait for the others, then part from them."""


class Alone:
    """A world of one process."""

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1
    is_split = False

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the values."""
        return dict(values)

    def agreed(self, number: int) -> int:
        """Return the number."""
        return number

    def gathered(self, mine: T) -> list[T]:
        """Return the object in a list."""
        return [mine]

    def shared(self, mine: T) -> T:
        """Return the object."""
        return mine

    def syncing(self, parts: Parts, *, last: bool) -> AbstractContextManager[object]:
        """Return a context that does nothing."""
        return nullcontext()

    def clip(self, parameters: list[torch.nn.Parameter], max_norm: float) -> float:
        """Shorten the gradient to `max_norm`; returns its norm before."""
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if max_norm - 1e-5 <= float(norm) < float("inf"):  # one that is short enough, or is to be skipped, is not multiplied
            torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
        return float(norm)

    def spread(self, parts: Parts, *, how: str, seed: int) -> None:
        """Do nothing."""

    def training(self, parts: Parts) -> Parts:
        """Return the parts."""
        return parts

    def load(self, folder: Path, saved: Saved) -> None:
        """Put everything into the state of a checkpoint."""
        checkpoint.load(folder, saved)

    def keeping(self, root: Path, saved: Saved, *, keep: int, check: Callable[[], None]) -> Keeping:
        """Return where checkpoints are kept."""
        return Checkpoints(root, saved, keep, check)

    def has_lost(self, error: BaseException) -> bool:
        """There is none."""
        return False

    def leave(self) -> None:
        """Do nothing."""


ALONE: World = Alone()
