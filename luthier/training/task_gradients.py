"""The gradient of each task of a step, apart from the others'."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from luthier.core.work import Batch, Parts
from luthier.training.shares import Shares

Gradient = list[Tensor | None]
NO_TASK = ""


def trained_parameters(parts: Parts) -> list[nn.Parameter]:
    """Return the parameters that are trained, in the order of the modules."""
    return [p for part in parts.values() if part.mode == "trained" for p in part.module.parameters() if p.requires_grad]


def apart(shares: Shares, window: Sequence[Batch], parameters: Sequence[nn.Parameter]) -> tuple[dict[str, Gradient], dict[str, float]]:
    """Return the gradient of each task's batches, and what was derived; the parameters have no gradient afterwards.

    Args:
        shares: The loss of the window.
        window: Batches, each of one task; those that name none are one task.
        parameters: What is derived by.
    """
    gradients: dict[str, Gradient] = {}
    losses: dict[str, float] = {}
    tasks = list(dict.fromkeys(batch.task or NO_TASK for batch in window))
    for task in tasks:
        mine = [batch for batch in window if (batch.task or NO_TASK) == task]
        losses[task] = 0.0
        for number, batch in enumerate(mine, start=1):
            with shares.world.syncing(shares.parts, last=number == len(mine)):
                total = shares.forward(batch)
                total.backward()
            losses[task] += float(total.detach())
        # some tables write every gradient into one buffer, so what is kept over the next task is a copy
        gradients[task] = [p.grad if p.grad is None or task == tasks[-1] else p.grad.clone() for p in parameters]
        for p in parameters:
            p.grad = None
    return gradients, losses


def shared(gradients: dict[str, Gradient]) -> list[int]:
    """Return the numbers of the parameters that more than one task has a gradient for."""
    return [number for number, several in enumerate(zip(*gradients.values(), strict=True)) if sum(g is not None for g in several) > 1]


def put(parameters: Sequence[nn.Parameter], gradients: Sequence[Gradient]) -> None:
    """Give each parameter the sum of its gradients, in place of the first of them."""
    for parameter, several in zip(parameters, zip(*gradients, strict=True), strict=True):
        found = [gradient for gradient in several if gradient is not None]
        for gradient in found[1:]:
            found[0].add_(gradient)
        parameter.grad = found[0] if found else None


def dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """Return the inner product of two gradients over the same parameters."""
    return torch.stack([torch.dot(a.flatten(), b.flatten()) for a, b in zip(one, other, strict=True)]).sum()
