"""What every way of unfreezing is: a pure function of the step, so a resume needs no memory of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache

from pydantic import Field, field_validator

from luthier.core.config import Registered
from luthier.core.units import Duration
from luthier.optim.schedules.schedule import Horizon


class Unfreezing(Registered, ABC):
    """Which layers are trained at which step; what follows the blocks is trained at every one.

    Args:
        every: How long the same layers are trained.
    """

    every: Duration = Field(Duration(1, "epochs"), description="How long the same layers are trained, such as '1 epoch' or '20 steps'.")

    @field_validator("*")
    @classmethod
    def _known_length(cls, value: object) -> object:
        if isinstance(value, Duration) and value.unit in ("samples", "tokens"):
            raise ValueError(f"got {str(value)!r}: unfreezing counts in epochs, steps or %")
        return value

    def period(self, step: int, horizon: Horizon) -> int:
        """Return how many times the layers changed before step `step` (from 0)."""
        return step // max(horizon.steps(self.every), 1)

    @abstractmethod
    def trained(self, period: int, num_blocks: int, seed: int) -> frozenset[int]:
        """Return the depths that are trained in a period: 0 is the embeddings, 1 to `num_blocks` are the blocks, lowest first.

        Args:
            period: How many times the layers changed before.
            num_blocks: Blocks of the model.
            seed: Seed of the run.
        """

    @classmethod
    @abstractmethod
    def example(cls) -> Unfreezing:
        """Return settings that the contract tests run on."""


@dataclass(frozen=True)
class Turn:
    """Steps at which the same layers are trained.

    Args:
        first: The first of them, counted from 1.
        last: The last of them.
        trained: Depths that are trained, beside what follows the blocks.
    """

    first: int
    last: int
    trained: frozenset[int]


def turns_over(way: Unfreezing | None, horizon: Horizon, num_blocks: int, *, seed: int, lowest: int = 0) -> list[Turn]:
    """Return which layers of a model are trained from the first to the last step of a run.

    Args:
        way: How layers take turns; None: all that are not frozen are trained at every step.
        horizon: Length of the run.
        num_blocks: Blocks of the model.
        seed: Seed of the run.
        lowest: Depth below which all is frozen.
    """

    @cache
    def trained(period: int) -> frozenset[int]:
        depths = range(num_blocks + 1) if way is None else way.trained(period, num_blocks, seed)
        return frozenset(depth for depth in depths if depth >= lowest)

    turns: list[Turn] = []
    for step in range(horizon.total_steps):
        now = trained(0 if way is None else way.period(step, horizon))
        first = turns.pop().first if turns and turns[-1].trained == now else step + 1
        turns.append(Turn(first, step + 1, now))
    return turns
