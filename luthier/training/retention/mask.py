"""Only chosen weights of a parameter are trained: the others have no gradient and stay what they were, bit for bit.

Reference: Child-Tuning, Xu et al., https://arxiv.org/abs/2109.05687
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Mask:
    """Holds weights still through the steps of an optimiser, weight decay and what other hooks do included.

    Args:
        masked: Parameters at their start, each with True for the weights that are trained; copies of the start are kept.
    """

    def __init__(self, masked: Iterable[tuple[nn.Parameter, Tensor]]) -> None:
        self._masked = [(parameter, trained, parameter.detach().clone()) for parameter, trained in masked]

    def attach(self, optimiser: torch.optim.Optimizer) -> None:
        """Have the optimiser keep to it; hooks that change weights are to be registered before."""
        optimiser.register_step_pre_hook(self.before)
        optimiser.register_step_post_hook(self.after)

    @torch.no_grad()
    def before(self, *_: Any) -> None:
        """Leave no gradient to weights that are not trained."""
        for parameter, trained, _start in self._masked:
            if parameter.grad is not None:
                parameter.grad.mul_(trained)

    @torch.no_grad()
    def after(self, *_: Any) -> None:
        """Put back what moved all the same."""
        for parameter, trained, start in self._masked:
            parameter.copy_(torch.where(trained, parameter, start))
