"""The head of a classifier that is tuned further: kept and grown, begun anew, or put on another trunk."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from luthier.models.blocks import body_of


@torch.no_grad()
def keep_head(model: Any, old: Any, new: frozenset[str]) -> frozenset[str]:
    """Copy an old head into a model with the same labels, or with more after them; their rows start at 0.

    Args:
        model: The classifier that is tuned.
        old: The classifier whose head is kept.
        new: Names of the parameters of `model` that started from nothing.

    Returns:
        The names of those that still have something new.
    """
    theirs, still = dict(old.named_parameters()), set(new)
    for name, parameter in model.named_parameters():
        if name not in new or name not in theirs:
            continue
        before = theirs[name]
        if parameter.shape == before.shape:
            parameter.copy_(before)
            still.discard(name)
        elif parameter.shape[1:] == before.shape[1:] and len(parameter) > len(before):
            parameter.zero_()
            parameter[: len(before)] = before
    return frozenset(still)


@torch.no_grad()
def begin_head(model: Any, new: frozenset[str], num_labels: int) -> frozenset[str]:
    """Let the last layer start at 0 where it came with the model only because another task has as many labels.

    Args:
        model: The classifier that is tuned.
        new: Names of the parameters that started from nothing.
        num_labels: Number of classes.

    Returns:
        The names of the parameters that start from nothing now.
    """
    inside = set(body_of(model).modules())
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module not in inside and module.out_features == num_labels
    ]
    if not layers or any(name.startswith(f"{layers[-1][0]}.") for name in new):
        return new
    name, last = layers[-1]
    for parameter in last.parameters():
        parameter.zero_()
    return new | {f"{name}.{inner}" for inner, _ in last.named_parameters()}


def put_on(old: Any, trunk: nn.Module) -> None:
    """Have an old classifier read another trunk of the same kind; its head is frozen, without dropout, and stays what it was.

    Args:
        old: A classifier of transformers, or one with a head of our own.
        trunk: What the body of another classifier is; not copied.
    """
    body = body_of(old)
    name = next(name for name, module in old.named_children() if module is body)
    for parameter in old.parameters():
        parameter.requires_grad_(False)
    old.eval()
    setattr(old, name, trunk)
