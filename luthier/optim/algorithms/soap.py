"""SOAP's update rule for matrices."""

from __future__ import annotations

from typing import Any

import torch


class SoapRule(torch.optim.Optimizer):
    """Adam in a turned basis: that in which the mean of G G^T and that of G^T G are nearly diagonal, with G the gradient.

    The first gradient of a matrix only finds the basis and moves nothing, as in the authors' code: in a basis that it made itself,
    rounding would be as long a step as anything. After that the basis is improved every so many steps by one step of power iteration and
    a QR decomposition, and its directions are put in order, the strongest first, with their moments.

    Args:
        groups: Parameter groups of matrices with `lr` and `weight_decay`.
        betas: Memory of the gradient's mean, and of its square, of G G^T and of G^T G.
        eps: Added to the root of the square.
        every: Steps between two improvements of the basis.
        longest: A side longer than this is not turned.

    Reference: https://arxiv.org/abs/2409.11321, algorithm 3; https://github.com/nikhilvyas/SOAP
    """

    def __init__(self, groups: list[dict[str, Any]], *, betas: tuple[float, float], eps: float, every: int, longest: int) -> None:
        super().__init__(groups, {"betas": betas, "eps": eps, "every": every, "longest": longest})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move every matrix that has a gradient, but for its first one."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    _begin(state, parameter, group)
                    continue
                state["step"] += 1
                parameter.add_(_direction(state, parameter.grad, group), alpha=-group["lr"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                _follow(state, parameter.grad, group)


def _begin(state: dict[str, Any], parameter: torch.Tensor, group: dict[str, Any]) -> None:
    assert parameter.grad is not None
    state["step"] = 0
    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
    for side, length in enumerate(parameter.shape):
        if length <= group["longest"]:
            state[f"square.{side}"] = _square(parameter.grad, side) * (1 - group["betas"][1])
            state[f"basis.{side}"] = torch.linalg.eigh(state[f"square.{side}"])[1].flip(1).contiguous()


def _direction(state: dict[str, Any], gradient: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
    """Take the gradient into the moments and return Adam's direction, turned back."""
    beta1, beta2 = group["betas"]
    turned = _turned(state, gradient, back=False)
    mean = state["exp_avg"].lerp_(gradient, 1 - beta1)
    square = state["exp_avg_sq"].mul_(beta2).addcmul_(turned, turned, value=1 - beta2)
    root = (square / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
    return _turned(state, _turned(state, mean, back=False) / (1 - beta1 ** state["step"]) / root, back=True)


def _turned(state: dict[str, Any], matrix: torch.Tensor, *, back: bool) -> torch.Tensor:
    """Return a matrix in the turned basis, or one of that in the model's own."""
    if "basis.0" in state:
        matrix = (state["basis.0"] if back else state["basis.0"].T) @ matrix
    if "basis.1" in state:
        matrix = matrix @ (state["basis.1"].T if back else state["basis.1"])
    return matrix


def _follow(state: dict[str, Any], gradient: torch.Tensor, group: dict[str, Any]) -> None:
    """Take the gradient into the means of its products, and improve the basis where it is time."""
    for side in (0, 1):
        if f"basis.{side}" not in state:
            continue
        square, basis = state[f"square.{side}"], state[f"basis.{side}"]
        square.lerp_(_square(gradient, side), 1 - group["betas"][1])
        if state["step"] % group["every"] == 0:
            order = (basis * (square @ basis)).sum(0).argsort(descending=True)
            state["exp_avg_sq"] = state["exp_avg_sq"].index_select(side, order)
            state[f"basis.{side}"] = torch.linalg.qr(square @ basis[:, order])[0].contiguous()


def _square(gradient: torch.Tensor, side: int) -> torch.Tensor:
    return gradient @ gradient.T if side == 0 else gradient.T @ gradient
