"""The update rule of schedule-free AdamW, with its two sets of weights."""

from __future__ import annotations

from typing import Any

import torch


class ScheduleFreeRule(torch.optim.Optimizer):
    """Gradients are taken at y, which the model has; x, the average of all iterates z, is what is measured and saved.

    With g the gradient at y over the root of its mean square, plus the decay of y: z <- z - rate * g, then
    x <- (1 - c) * x + c * z with c the square of the rate over the sum of all squares so far, then y <- (1 - beta1) * z + beta1 * x.
    Each parameter counts its own steps. x is not kept: it is y + (1 - 1 / beta1) * (z - y).

    Args:
        groups: Parameter groups with `lr` and `weight_decay`.
        betas: Share of x in y, above 0, and memory of the gradient's square.
        eps: Added to the root of the square.

    Reference: https://arxiv.org/abs/2405.15682, algorithm 1; schedulefree 1.4.1
    """

    def __init__(self, groups: list[dict[str, Any]], *, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"betas": betas, "eps": eps})
        self._aside: dict[torch.Tensor, torch.Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move every parameter that has a gradient."""
        assert closure is None and not self._aside, "gradients are taken at y"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)

    @torch.no_grad()
    def exchange(self) -> None:
        """Let the model have x for its weights; the next call gives it y back, bit for bit."""
        if self._aside:
            for parameter, own in self._aside.items():
                parameter.copy_(own)
            self._aside = {}
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter in self.state:
                    self._aside[parameter] = parameter.detach().clone()
                    parameter.lerp_(self.state[parameter]["z"], 1 - 1 / group["betas"][0])

    def _move(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        state, rate, (beta1, beta2) = self.state[parameter], group["lr"], group["betas"]
        if not state:
            state["step"], state["squares"] = 0, 0.0
            state["z"], state["exp_avg_sq"] = parameter.detach().clone(), torch.zeros_like(parameter)
        state["step"] += 1
        state["squares"] += rate**2
        share = rate**2 / state["squares"] if state["squares"] else 0.0
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
        direction = parameter.grad / (square / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
        direction.add_(parameter, alpha=group["weight_decay"])
        parameter.lerp_(state["z"], share).add_(direction, alpha=rate * (beta1 * (1 - share) - 1))
        state["z"].sub_(direction, alpha=rate)
