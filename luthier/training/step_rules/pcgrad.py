"""PCGrad: where the gradients of two tasks conflict, each loses what it has against the other."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import ClassVar

import torch
from torch import Tensor

from luthier.core.work import Batch, Parts
from luthier.training.shares import Shares
from luthier.training.step_rules import step_rules
from luthier.training.step_rules.step_rule import Losses, StepRule
from luthier.training.task_gradients import Gradient, apart, dot, put, shared, trained_parameters
from luthier.training.world import ALONE, World


@step_rules.add
class PcGrad(StepRule):
    """The sum of the tasks' gradients, each without what points against another's; by the weights that tasks share.

    The others are taken in random order. Memory for a gradient of each task.

    Reference: Yu et al., https://arxiv.org/abs/2001.06782
    """

    needs_whole_weights: ClassVar[bool] = True
    tells_tasks_apart: ClassVar[bool] = True

    def gradient(
        self, work: Losses, parts: Parts, window: list[Batch], cast: AbstractContextManager[object], world: World = ALONE
    ) -> dict[str, float]:
        """Derive the batches of each task apart, and add up what is left of them."""
        shares, parameters = Shares(work, parts, window, cast, world), trained_parameters(parts)
        gradients, _ = apart(shares, window, parameters)
        if len(gradients) > 1:
            gradients = projected(gradients)
        put(parameters, list(gradients.values()))
        return shares.means()


def projected(gradients: dict[str, Gradient]) -> dict[str, Gradient]:
    """Return the gradients without what they have against each other in the parameters that several tasks have one for."""
    common = shared(gradients)
    before = dict(zip(gradients, zip(*(_filled(column) for column in _columns(gradients, common)), strict=True), strict=True))
    found: dict[str, Gradient] = {}
    for task, gradient in gradients.items():
        others = [other for other in before if other != task]
        mine = [one.clone() for one in before[task]]
        for place in torch.randperm(len(others)).tolist():
            against = before[others[place]]
            conflict = dot(mine, against)
            if conflict < 0:
                torch._foreach_sub_(mine, torch._foreach_mul(against, float(conflict / dot(against, against))))
        found[task] = list(gradient)
        for number, one in zip(common, mine, strict=True):
            found[task][number] = one
    return found


def _columns(gradients: dict[str, Gradient], numbers: list[int]) -> list[Gradient]:
    """Return for some parameters the gradient that each task has."""
    return [[gradient[number] for gradient in gradients.values()] for number in numbers]


def _filled(several: Gradient) -> list[Tensor]:
    """Return the gradients of one parameter, with zeros for a task that has none."""
    like = next(one for one in several if one is not None)
    return [torch.zeros_like(like) if one is None else one for one in several]
