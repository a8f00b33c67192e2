"""How much an answer depends on each weight: the diagonal of the Fisher information, row by row.

N old rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

Fisher = dict[str, Tensor]


def diagonal_fisher(parameters: Mapping[str, nn.Parameter], losses: Iterable[Callable[[], Tensor]]) -> Fisher:
    """Return the mean square of the gradient of each weight over rows.

    Args:
        parameters: The weights by name.
        losses: For each of N rows, what computes the negative log-probability of an answer that was drawn from the model's own.

    Reference: Kirkpatrick et al., https://arxiv.org/abs/1612.00796; answers are drawn, https://arxiv.org/abs/1905.12558
    """
    found = {name: torch.zeros_like(parameter, requires_grad=False) for name, parameter in parameters.items()}
    num_rows = 0
    for loss in losses:
        gradients = torch.autograd.grad(loss(), list(parameters.values()), allow_unused=True)
        for sum_, gradient in zip(found.values(), gradients, strict=True):
            if gradient is not None:
                sum_.addcmul_(gradient, gradient)
        num_rows += 1
    return {name: sum_ / max(num_rows, 1) for name, sum_ in found.items()}


def relative(fisher: Fisher) -> Fisher:
    """Return Fisher information divided by its mean over all weights, so that a strength means the same for every model."""
    mean = sum(float(values.double().sum()) for values in fisher.values()) / sum(values.numel() for values in fisher.values())
    return {name: values / mean if mean > 0 else values for name, values in fisher.items()}


def added(fisher: Fisher, earlier: Fisher) -> Fisher:
    """Return Fisher information with that on rows that were learnt earlier, before a head had all its rows.

    Args:
        fisher: Information of each weight.
        earlier: Information of those that there were then; weights of another shape are left out.

    Reference: Huszár on EWC over several tasks, https://arxiv.org/abs/1712.03847
    """
    found = {name: values.clone() for name, values in fisher.items()}
    for name, values in earlier.items():
        if name in found and found[name].shape[1:] == values.shape[1:] and len(values) <= len(found[name]):
            found[name][: len(values)] += values
    return found


def chosen_by_fisher(fisher: Fisher, share: float, *, largest: bool) -> dict[str, Tensor]:
    """Return which weights have the most, or the least, information, of all tensors together.

    Args:
        fisher: Information of each weight, 0 or more.
        share: Part of the weights with any information that is chosen, between 0 and 1.
        largest: Choose those with the most; else those with the least, and besides all that have none.

    Returns:
        One bool for each weight, by name.
    """
    some = np.concatenate([values[values > 0].cpu().numpy().ravel() for values in fisher.values()])
    if not len(some):
        return {name: torch.full_like(values, not largest, dtype=torch.bool) for name, values in fisher.items()}
    number = max(1, round(share * len(some)))
    place = len(some) - number if largest else number - 1
    edge = float(np.partition(some, place)[place])
    return {name: values >= edge if largest else values <= edge for name, values in fisher.items()}
