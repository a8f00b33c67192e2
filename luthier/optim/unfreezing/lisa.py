"""A few random blocks at a time."""

from __future__ import annotations

from pydantic import Field

from luthier.core.units import Duration
from luthier.optim.unfreezing import unfreezings
from luthier.optim.unfreezing.unfreezing import Unfreezing


@unfreezings.add
class Lisa(Unfreezing):
    """The embeddings, the head, and a few blocks that are drawn anew each time.

    Reference: https://arxiv.org/abs/2403.17919
    """

    every: Duration = Field(Duration(20, "steps"), description="How long the same blocks are trained, such as '20 steps'.")
    layers: int = Field(2, ge=1, description="Blocks that are trained at a time.")

    def trained(self, period: int, num_blocks: int, seed: int) -> frozenset[int]:
        """Return the embeddings and the blocks that are drawn for the period."""
        import numpy as np

        drawn = np.random.default_rng((seed, period)).choice(num_blocks, min(self.layers, num_blocks), replace=False)
        return frozenset({0, *(int(block) + 1 for block in drawn)})

    @classmethod
    def example(cls) -> Unfreezing:
        """Return two blocks for ten steps."""
        return cls.model_validate({"every": "10 steps"})
