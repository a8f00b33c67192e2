"""L2-SP: pretrained weights are pulled towards where they started, as weight decay pulls towards 0.

Reference: Li et al., https://arxiv.org/abs/1802.01483; apart from the gradient as in https://arxiv.org/abs/1711.05101
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class Pull:
    """Moves each parameter a part of its way back after every step of an optimiser.

    Args:
        parameters: What is pulled, at its start; a copy of what is trained of it is kept.
        strength: Part of the way back per step, divided by the rate.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], strength: float) -> None:
        self._starts = {id(p): p.detach().clone() for p in parameters if p.requires_grad}
        self._strength = strength

    @torch.no_grad()
    def __call__(self, stepped: torch.optim.Optimizer, *_: Any) -> None:
        """Pull, at the rate of each group."""
        for group in stepped.param_groups:
            for parameter in group["params"]:
                if id(parameter) in self._starts:
                    parameter.lerp_(self._starts[id(parameter)], min(1.0, group["lr"] * self._strength))
