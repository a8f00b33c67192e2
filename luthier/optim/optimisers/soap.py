"""SOAP."""

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
class Soap(Optimiser):
    """Adam in the basis that Shampoo finds for each matrix; AdamW for vectors, embeddings, output layers and new heads.

    Reference: https://arxiv.org/abs/2409.11321
    """

    rows_are_apart = True  # of the word embedding, which is AdamW's
    inner_apart = True
    looks_at_whole = True
    betas: tuple[float, float] = Field((0.95, 0.95), description="Memory of the gradient's mean, and of its square and its products.")
    eps: float = Field(1e-8, gt=0, description="Added to the root of the square, against division by 0.")
    every: int = Field(10, ge=1, description="Steps between two improvements of the basis, which take longer than a step.")
    longest: int = Field(10_000, ge=1, description="A side of a matrix that is longer than this is not turned.")

    def build(self, groups: list[Group]) -> torch.optim.Optimizer:
        """Return SOAP and `torch.optim.AdamW` as one."""
        from luthier.optim.algorithms.inner_outer import InnerAndAdamW
        from luthier.optim.algorithms.soap import SoapRule

        def rule(inner: list[Group]) -> SoapRule:
            return SoapRule(inner, betas=self.betas, eps=self.eps, every=self.every, longest=self.longest)

        return InnerAndAdamW(groups, make_inner=rule, adamw={"betas": self.betas, "eps": self.eps})

    def kept_bytes(self, shape: Sequence[int], *, inner: bool = True) -> float:
        """Return both moments and, for each side of a matrix that is turned, a basis and the mean of the products."""
        return 8.0 * (math.prod(shape) + (sum(side**2 for side in shape if side <= self.longest) if inner else 0))

    @classmethod
    def example(cls) -> Optimiser:
        """Return SOAP at 1e-1, with a basis that is improved every third step."""
        return cls(learning_rate=1e-1, every=3)
