"""Running out of memory: seen, forgotten, and the step done again in smaller micro-batches."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Protocol

import torch

from luthier.core.errors import RunStopped, is_out_of_memory
from luthier.core.work import Batch
from luthier.training.world import World

log = logging.getLogger("luthier")
MOST_HALVINGS = 6


class Cuttable(Protocol):
    """What the step needs of a source to be done again in smaller pieces."""

    @property
    def most_rows(self) -> int:
        """Most rows that go through the model at once."""

    @property
    def halvings(self) -> int:
        """How often they were halved since the run began."""

    def halve(self) -> None:
        """Cut micro-batches into halves from now on."""

    def again(self) -> list[Batch]:
        """Return the last window once more, cut as it is now."""


def within_memory(
    attempt: Callable[[list[Batch]], dict[str, float]], window: list[Batch], source: Cuttable, forget: Callable[[], None], world: World
) -> dict[str, float]:
    """Do a step; each time memory runs out, do it again in micro-batches of half the rows: the step's rows stay the same.

    A run halves them six times at most.

    Args:
        attempt: Makes the gradient of a window.
        window: Micro-batches of the step.
        source: Where the window came from.
        forget: Drops what a failed attempt left in the gradients.
        world: The processes.

    Raises:
        RunStopped: where one row, or the sixth halving, is still too much, or where other processes take part in the step.
    """
    dropout = dropout_state()
    while True:
        try:
            return attempt(window)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            rows = max(len(batch.ids) for batch in window)
            if rows == 1 or source.halvings == MOST_HALVINGS or world.size > 1:
                raise _too_much(rows, world) from error
        forget()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        source.halve()
        log.warning("out of memory with %d rows at once: going on with %d; the rows of a step stay the same", rows, source.most_rows)
        restore_dropout(*dropout)
        window = source.again()


def dropout_state() -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the state of the generators that dropout draws from."""
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


def restore_dropout(cpu: torch.Tensor, cuda: list[torch.Tensor]) -> None:
    """Put the generators back into a state that `dropout_state` gave, so that the same dropout is drawn again."""
    torch.set_rng_state(cpu)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)


def _too_much(rows: int, world: World) -> RunStopped:
    if world.size > 1:
        return RunStopped(
            f"process {world.rank} ran out of memory with {rows} rows at once",
            fix="halve training.batch_size and double training.gradient_accumulation_steps, or split the model: training.parallel=fsdp2",
        )
    return RunStopped(
        f"out of memory even with {rows} row{'s' if rows > 1 else ''} at once",
        fix="use a smaller model, shorter texts (data.max_length=128), or a machine with more memory",
    )
