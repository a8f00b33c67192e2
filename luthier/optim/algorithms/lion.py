"""Lion's update rule."""

from __future__ import annotations

from typing import Any

import torch


class LionRule(torch.optim.Optimizer):
    """Steps by the sign of a mean of gradients, every number by the same amount.

    With the gradient g and its mean m: w <- w * (1 - rate * decay) - rate * sign(beta1 * m + (1 - beta1) * g), then
    m <- beta2 * m + (1 - beta2) * g.

    Args:
        groups: Parameter groups with `lr` and `weight_decay`.
        betas: Weight of the mean in the step, and its memory.

    Reference: https://arxiv.org/abs/2302.06675, algorithm 2
    """

    def __init__(self, groups: list[dict[str, Any]], *, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"betas": betas})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            in_step, memory = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                mean = state["exp_avg"]
                update = parameter.grad.lerp(mean, in_step).sign_()
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])
                mean.lerp_(parameter.grad, 1 - memory)
