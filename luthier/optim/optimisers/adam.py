"""Adam."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from luthier.optim.optimisers import optimisers
from luthier.optim.optimisers.optimiser import Group, Optimiser, WithMoments

if TYPE_CHECKING:
    import torch


@optimisers.add
class Adam(WithMoments):
    """Adam as first published, torch's fused form: decay is part of the gradient, so AdamW is usually the better choice.

    Reference: https://arxiv.org/abs/1412.6980
    """

    weight_decay: float = Field(0.0, ge=0, description="Times the weight, added to the gradient of matrices.")

    def build(self, groups: list[Group]) -> torch.optim.Optimizer:
        """Return `torch.optim.Adam`."""
        import torch

        return torch.optim.Adam(groups, betas=self.betas, eps=self.eps, fused=True)

    @classmethod
    def example(cls) -> Optimiser:
        """Return Adam at 1e-2."""
        return cls(learning_rate=1e-2)
