"""Adafactor."""

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
class Adafactor(Optimiser):
    """Adam's second moment kept as row and column sums: little memory.

    Reference: https://arxiv.org/abs/1804.04235
    """

    beta2_decay: float = Field(-0.8, lt=0, description="How fast the memory of the squared gradient grows.")
    clip_threshold: float = Field(1.0, gt=0, description="Largest root mean square of an update.")

    def build(self, groups: list[Group]) -> torch.optim.Optimizer:
        """Return `torch.optim.Adafactor`."""
        import torch

        return torch.optim.Adafactor(groups, beta2_decay=self.beta2_decay, d=self.clip_threshold)

    def kept_bytes(self, shape: Sequence[int], *, inner: bool = True) -> float:
        """Return one number for each row and each column of a matrix, and one for each of a vector."""
        *many, rows, columns = (1, 1, *shape)
        return 4.0 * math.prod(many) * (rows + columns) if len(shape) > 1 else 4.0 * math.prod(shape)

    @classmethod
    def example(cls) -> Optimiser:
        """Return Adafactor at 1e-2."""
        return cls(learning_rate=1e-2)
