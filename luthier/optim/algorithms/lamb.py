"""LAMB's update rule."""

from __future__ import annotations

from typing import Any

import torch


class LambRule(torch.optim.Optimizer):
    """Adam's step with decay, made as long as a share of the parameter itself: lr is that share.

    Vectors (biases, norms) take Adam's step as it is, as in the authors' code.

    Args:
        groups: Parameter groups with `lr` and `weight_decay`.
        betas: Memory of the gradient's mean and of its square.
        eps: Added to the root of the square.

    Reference: https://arxiv.org/abs/1904.00962, algorithm 2
    """

    def __init__(self, groups: list[dict[str, Any]], *, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update = self._direction(parameter, group).add_(parameter, alpha=group["weight_decay"])
                    parameter.addcmul_(update, _length(parameter, update), value=-group["lr"])

    def _direction(self, parameter: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        """Take the gradient into the moments and return Adam's direction."""
        assert parameter.grad is not None
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        step = float(state["step"])
        mean = state["exp_avg"].lerp_(parameter.grad, 1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
        return (mean / (1 - beta1**step)).div_((square / (1 - beta2**step)).sqrt_().add_(group["eps"]))


def _length(parameter: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
    """Return what makes the update of a matrix as long as the matrix; 1 where either has no length, and for vectors."""
    one = torch.ones((), dtype=parameter.dtype, device=parameter.device)
    if parameter.ndim < 2:
        return one
    length, of_update = torch.linalg.vector_norm(parameter), torch.linalg.vector_norm(update)
    return torch.where((length > 0) & (of_update > 0), length / of_update, one)
