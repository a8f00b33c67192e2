"""AdamW."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.optim.optimisers import optimisers
from luthier.optim.optimisers.optimiser import Group, Optimiser, WithMoments

if TYPE_CHECKING:
    import torch


@optimisers.add
class AdamW(WithMoments):
    """Adam with decoupled weight decay, torch's fused form.

    Reference: https://arxiv.org/abs/1711.05101
    """

    rows_are_apart = True

    def build(self, groups: list[Group]) -> torch.optim.Optimizer:
        """Return `torch.optim.AdamW`."""
        import torch

        return torch.optim.AdamW(groups, betas=self.betas, eps=self.eps, fused=True)

    @classmethod
    def example(cls) -> Optimiser:
        """Return AdamW at 1e-2."""
        return cls(learning_rate=1e-2)
