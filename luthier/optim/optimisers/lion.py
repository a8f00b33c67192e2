"""Lion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from luthier.optim.optimisers import optimisers
from luthier.optim.optimisers.optimiser import Group, Optimiser

if TYPE_CHECKING:
    import torch


@optimisers.add
class Lion(Optimiser):
    """Steps by the sign of the mean gradient: half of AdamW's memory, and a smaller rate with more decay.

    Reference: https://arxiv.org/abs/2302.06675
    """

    rows_are_apart = True
    rate_factor = 0.2  # the paper: 3 to 10 times smaller than AdamW's
    weight_decay: float = Field(0.05, ge=0, description="Pull of matrices towards 0 per step, times the rate; more than AdamW's.")
    betas: tuple[float, float] = Field((0.9, 0.99), description="Weight of the mean gradient in the step, and its memory.")

    def build(self, groups: list[Group]) -> torch.optim.Optimizer:
        """Return Lion."""
        from luthier.optim.algorithms.lion import LionRule

        return LionRule(groups, betas=self.betas)

    def kept_bytes(self, shape: Sequence[int], *, inner: bool = True) -> float:
        """Return the mean gradient."""
        return 4.0 * math.prod(shape)

    @classmethod
    def example(cls) -> Optimiser:
        """Return Lion at 1e-2."""
        return cls(learning_rate=1e-2)
