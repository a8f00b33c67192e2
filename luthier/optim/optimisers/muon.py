"""Muon."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from luthier.core.errors import SetupError
from luthier.optim.optimisers import optimisers
from luthier.optim.optimisers.optimiser import Group, Optimiser

if TYPE_CHECKING:
    import torch


@optimisers.add
class Muon(Optimiser):
    """Steps of equal size in all directions of a matrix; AdamW for vectors, embeddings, output layers and new heads. Needs torch 2.9.

    Reference: https://kellerjordan.github.io/posts/muon/, https://arxiv.org/abs/2502.16982, torch.optim.Muon
    """

    rows_are_apart = True  # of the word embedding, which is AdamW's
    inner_apart = True
    looks_at_whole = True
    momentum: float = Field(0.95, ge=0, lt=1, description="Memory of the mean gradient of matrices.")
    nesterov: bool = Field(True, description="Look ahead along the momentum.")
    iterations: int = Field(
        5,
        ge=1,
        lt=100,
        description="Newton-Schulz iterations that make a matrix's step even; with small batches they take longer than the gradient.",
    )
    scale: Literal["match_rms_adamw", "original"] = Field(
        "match_rms_adamw", description="Length of a matrix's step: that of AdamW's, so that its rates fit, or the author's."
    )
    betas: tuple[float, float] = Field((0.9, 0.999), description="AdamW's memory of the gradient's mean and of its square.")
    eps: float = Field(1e-8, gt=0, description="Added to the root of the square in AdamW, against division by 0.")

    def build(self, groups: list[Group]) -> torch.optim.Optimizer:
        """Return `torch.optim.Muon` and `torch.optim.AdamW` as one.

        Raises:
            SetupError: if torch is too old to have Muon.
        """
        import torch

        if not hasattr(torch.optim, "Muon"):
            what = f"optim.type=muon needs torch 2.9 or newer, and torch {torch.__version__} is installed"
            raise SetupError(what, fix="pip install -U torch, or use optim.type=adamw")
        from luthier.optim.algorithms.inner_outer import InnerAndAdamW

        def rule(inner: list[Group]) -> torch.optim.Optimizer:
            settings: dict[str, Any] = {"momentum": self.momentum, "nesterov": self.nesterov, "ns_steps": self.iterations}
            return torch.optim.Muon(inner, adjust_lr_fn=self.scale, **settings)

        return InnerAndAdamW(groups, make_inner=rule, adamw={"betas": self.betas, "eps": self.eps})

    def kept_bytes(self, shape: Sequence[int], *, inner: bool = True) -> float:
        """Return the momentum of a matrix inside the model, and AdamW's two moments of anything else."""
        return (4.0 if inner else 8.0) * math.prod(shape)

    @classmethod
    def example(cls) -> Optimiser:
        """Return Muon at 1e-1."""
        return cls(learning_rate=1e-1)
