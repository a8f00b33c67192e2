"""Unfreezing by and by."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from luthier.optim.unfreezing import unfreezings
from luthier.optim.unfreezing.unfreezing import Unfreezing


@unfreezings.add
class Gradual(Unfreezing):
    """First the head alone, then one block more each time, from the top down; the embeddings last.

    Reference: ULMFiT, https://arxiv.org/abs/1801.06146
    """

    start: int = Field(0, ge=0, description="Blocks that are trained from the first step on.")
    order: Literal["down", "up"] = Field("down", description="down: from the head to the embeddings; up: from the embeddings to the head.")

    def trained(self, period: int, num_blocks: int, seed: int) -> frozenset[int]:
        """Return the layers whose turn has come."""
        reached = min(self.start + period, num_blocks + 1)
        lowest = num_blocks + 1 - reached if self.order == "down" else 0
        return frozenset(range(lowest, lowest + reached))

    @classmethod
    def example(cls) -> Unfreezing:
        """Return one block every ten steps."""
        return cls.model_validate({"every": "10 steps"})
