"""The blocks of a transformer, found by what they are, not by the name of the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from luthier.core.errors import ConfigError, Fault

KEY = "model.freeze"
MOST_ELSEWHERE = 0.1  # of the parameters of the largest stack


def blocks_of(model: Any) -> nn.ModuleList:
    """Return the stack of blocks of which each is fed what the one before gives, lowest first.

    It is the largest `nn.ModuleList` in the body of the model that stands in no other one, and all its blocks are of one class.

    Args:
        model: A transformers model, with or without a head.

    Raises:
        ConfigError: where there is no such stack, more than one, or fewer blocks than layers because layers share weights.
    """
    body = getattr(model, "base_model", model)
    stacks = sorted(_outermost(body), key=_size, reverse=True)
    name = type(model).__name__
    if not stacks:
        raise _cannot(f"no stack of layers was found in {name}")
    largest, others = stacks[0], stacks[1:]
    if any(_size(stack) > MOST_ELSEWHERE * _size(largest) for stack in others):
        raise _cannot(f"{name} has several stacks of layers, so that 'the lower ones' says nothing")
    kinds = {type(block) for block in largest}
    if len(kinds) > 1 or kinds & {nn.ModuleList, nn.ModuleDict}:
        raise _cannot(f"the layers of {name} are not of one kind")
    layers = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    if isinstance(layers, int) and layers != len(largest):
        raise _cannot(f"{name} runs {layers} layers but has the weights of {len(largest)}")
    return largest


def _outermost(module: nn.Module) -> Iterator[nn.ModuleList]:
    for child in module.children():
        if isinstance(child, nn.ModuleList) and len(child):
            yield child
        else:
            yield from _outermost(child)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _cannot(why: str) -> ConfigError:
    return ConfigError([Fault(KEY, why, f"use {KEY}=body, which trains the head only, or {KEY}=none")])
