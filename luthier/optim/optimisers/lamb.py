"""LAMB."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from luthier.optim.optimisers import optimisers
from luthier.optim.optimisers.optimiser import Group, Optimiser, WithMoments

if TYPE_CHECKING:
    import torch


@optimisers.add
class Lamb(WithMoments):
    """AdamW with each matrix's step as long as a share of the matrix, for very large batches; the rate is that share.

    Reference: https://arxiv.org/abs/1904.00962
    """

    looks_at_whole = True
    rate_factor = 20.0  # weights of encoders have a root mean square of about 1 / 20, by which AdamW's rate becomes a share
    eps: float = Field(1e-6, gt=0, description="Added to the root of the square, against division by 0.")

    def build(self, groups: list[Group]) -> torch.optim.Optimizer:
        """Return LAMB."""
        from luthier.optim.algorithms.lamb import LambRule

        return LambRule(groups, betas=self.betas, eps=self.eps)

    @classmethod
    def example(cls) -> Optimiser:
        """Return LAMB at 2e-2."""
        return cls(learning_rate=2e-2)
