"""GradNorm: weights of the tasks that make those learn faster that have learnt less."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from luthier.core.work import Batch, Parts
from luthier.training.shares import Shares
from luthier.training.step_rules import step_rules
from luthier.training.step_rules.step_rule import Losses, StepRule
from luthier.training.task_gradients import Gradient, apart, put, shared, trained_parameters
from luthier.training.world import ALONE, World

LEAST = 1e-3  # no task is ever weighed less


@step_rules.add
class GradNorm(StepRule):
    """The sum of the tasks' gradients, times weights that are moved at every step; they add up to the number of tasks.

    The norm of each task's gradient at the last shared matrix is drawn towards the mean of all, times how much slower the task learns than
    the others to the power of `alpha`. The loss that is told is without the weights. Memory for a gradient of each task.

    Reference: Chen et al., https://arxiv.org/abs/1711.02257
    """

    needs_whole_weights: ClassVar[bool] = True
    tells_tasks_apart: ClassVar[bool] = True
    alpha: float = Field(1.5, ge=0, description="How strongly tasks that learn slower are drawn on; 0 makes all gradients equally long.")
    rate: float = Field(0.025, gt=0, description="Largest move of a weight in a step, where all gradients are equally long.")

    def gradient(
        self, work: Losses, parts: Parts, window: list[Batch], cast: AbstractContextManager[object], world: World = ALONE
    ) -> dict[str, float]:
        """Derive the batches of each task apart, add them up with their weights, and move the weights for the next step."""
        shares, parameters = Shares(work, parts, window, cast, world), trained_parameters(parts)
        gradients, losses = apart(shares, window, parameters)
        balance = getattr(parts["model"].module, "balance", None)
        if len(gradients) > 1 and balance is not None:
            weights = {task: balance.weights[task].item() for task in gradients}
            self._move(balance, gradients, losses)
            for task, gradient in gradients.items():
                torch._foreach_mul_([one for one in gradient if one is not None], weights[task])
        put(parameters, list(gradients.values()))
        return shares.means()

    @torch.no_grad()
    def _move(self, balance: Any, gradients: dict[str, Gradient], losses: dict[str, float]) -> None:
        """Move the weights of the tasks of a step; their sum stays. Where a loss or gradient is not finite, nothing is moved."""
        norms = _norms_at_last_matrix(gradients)
        if not all(math.isfinite(value) for value in (*norms.values(), *losses.values())) or not sum(norms.values()):
            return
        for task, loss in losses.items():
            if not balance.first_losses[task].item():
                balance.first_losses[task].fill_(loss)
        weights = {task: balance.weights[task].item() for task in norms}
        left = {task: losses[task] / max(balance.first_losses[task].item(), 1e-12) for task in norms}
        for task, weight in moved(weights, norms, left, alpha=self.alpha, rate=self.rate).items():
            balance.weights[task].fill_(weight)


def moved(weights: dict[str, float], norms: dict[str, float], left: dict[str, float], *, alpha: float, rate: float) -> dict[str, float]:
    """Return the weights after one step down the distances of the weighed norms from where they should be; their sum is kept.

    Args:
        weights: Weight of each task.
        norms: Norm of each task's gradient, without its weight.
        left: Loss of each task over its first one: the more is left, the slower it learns.
        alpha: How much that counts.
        rate: Size of the step, for norms over their mean.
    """
    mean_norm, mean_left = sum(norms.values()) / len(norms), max(sum(left.values()) / len(left), 1e-12)
    weighed = {task: weights[task] * norms[task] / mean_norm for task in weights}
    middle = sum(weighed.values()) / len(weighed)
    found = {}
    for task, weight in weights.items():
        away = weighed[task] - middle * (left[task] / mean_left) ** alpha
        found[task] = max(weight - rate * norms[task] / mean_norm * ((away > 0) - (away < 0)), LEAST)
    scale = sum(weights.values()) / sum(found.values())
    return {task: weight * scale for task, weight in found.items()}


def _norms_at_last_matrix(gradients: dict[str, Gradient]) -> dict[str, float]:
    """Return the norm of each task's gradient of the last matrix that every task of the step has one for; nothing where none is shared."""
    every = [n for n in shared(gradients) if all(gradient[n] is not None for gradient in gradients.values())]
    if not every:
        return {}
    last = max(every, key=lambda n: (_dim(gradients, n) > 1, n))
    return {task: float(_norm(gradient[last])) for task, gradient in gradients.items()}


def _dim(gradients: dict[str, Gradient], number: int) -> int:
    found = next(iter(gradients.values()))[number]
    return 0 if found is None else found.ndim


def _norm(gradient: torch.Tensor | None) -> torch.Tensor:
    assert gradient is not None
    return nn.utils.get_total_norm([gradient])
