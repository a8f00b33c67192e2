"""Schedule-free AdamW."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from luthier.optim.optimisers import optimisers
from luthier.optim.optimisers.optimiser import Group, Optimiser

if TYPE_CHECKING:
    import torch


@optimisers.add
class ScheduleFree(Optimiser):
    """AdamW at a constant rate, whose average of the weights takes the place of a falling rate: the run may end at any step.

    What is measured and saved is the average. It has AdamW's memory, and a copy of the weights more while it is measured.

    Reference: https://arxiv.org/abs/2405.15682
    """

    averages = True
    betas: tuple[float, float] = Field(
        (0.9, 0.999), description="Share of the average in the weights at which gradients are taken, and memory of the gradient's square."
    )
    eps: float = Field(1e-8, gt=0, description="Added to the root of the square, against division by 0.")

    @field_validator("betas")
    @classmethod
    def _some_of_the_average(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not (0 < betas[0] < 1 and 0 <= betas[1] < 1):
            raise ValueError(f"got {list(betas)}, wanted the first above 0, and both below 1")
        return betas

    def build(self, groups: list[Group]) -> torch.optim.Optimizer:
        """Return schedule-free AdamW."""
        from luthier.optim.algorithms.schedule_free import ScheduleFreeRule

        return ScheduleFreeRule(groups, betas=self.betas, eps=self.eps)

    @classmethod
    def example(cls) -> Optimiser:
        """Return it at 1e-1."""
        return cls(learning_rate=1e-1)
