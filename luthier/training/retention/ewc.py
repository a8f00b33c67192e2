"""EWC: each weight is pulled towards where it started, the more the old rows depend on it.

The pull is apart from the gradient, as weight decay is in AdamW, so that an optimiser that divides gradients does not divide it too.

Reference: Kirkpatrick et al., https://arxiv.org/abs/1612.00796
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Consolidation:
    """Goes a part of the way back after every step of an optimiser, weight by weight.

    It is the exact step against strength / 2 * information * (weight - start)^2 alone: with c = rate * strength * information, c / (1 + c)
    of the way back, which never goes too far.

    Args:
        held: Parameters at their start, each with the information of its weights; copies of the start are kept.
        strength: Pull where the information is 1.
    """

    def __init__(self, held: Iterable[tuple[nn.Parameter, Tensor]], strength: float) -> None:
        self._held = {id(p): (p.detach().clone(), strength * information) for p, information in held}

    @torch.no_grad()
    def __call__(self, stepped: torch.optim.Optimizer, *_: Any) -> None:
        """Pull, at the rate of each group."""
        for group in stepped.param_groups:
            for parameter in group["params"]:
                if id(parameter) in self._held:
                    start, pull = self._held[id(parameter)]
                    way = pull * group["lr"]
                    parameter.lerp_(start, way / (1 + way))
