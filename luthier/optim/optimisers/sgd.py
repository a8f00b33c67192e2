"""Stochastic gradient descent."""

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
class SGD(Optimiser):
    """Gradient descent with momentum; needs a larger rate than AdamW, so name one."""

    momentum: float = Field(0.9, ge=0, lt=1, description="Share of the last step that is kept.")
    nesterov: bool = Field(False, description="Look ahead along the momentum.")

    def build(self, groups: list[Group]) -> torch.optim.Optimizer:
        """Return `torch.optim.SGD`."""
        import torch

        return torch.optim.SGD(groups, momentum=self.momentum, nesterov=self.nesterov)

    def kept_bytes(self, shape: Sequence[int], *, inner: bool = True) -> float:
        """Return the momentum, where there is one."""
        return 4.0 * math.prod(shape) if self.momentum else 0.0

    @classmethod
    def example(cls) -> Optimiser:
        """Return SGD at 1e-1."""
        return cls(learning_rate=1e-1)
