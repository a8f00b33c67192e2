"""The blocks of a transformer, found by what they are, not by the name of the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from luthier.core.errors import ConfigError, Fault

KEY = "model.freeze"
MOST_ELSEWHERE = 0.1  # of the parameters of the largest stack


def body_of(model: Any) -> Any:
    """Return the model without its head; of a module that holds a model of transformers as `model`, that model's."""
    held = model if hasattr(model, "base_model") else getattr(model, "model", model)
    return getattr(held, "base_model", held)


def lookup_of(model: Any) -> nn.Module | None:
    """Return the table that token ids are looked up in, if there is one."""
    held = model if hasattr(model, "get_input_embeddings") else getattr(model, "model", model)
    found: nn.Module | None = held.get_input_embeddings() if hasattr(held, "get_input_embeddings") else None
    return found


def blocks_of(model: Any, key: str = KEY) -> nn.ModuleList:
    """Return the stack of blocks of which each is fed what the one before gives, lowest first.

    It is the largest `nn.ModuleList` in the body of the model that stands in no other one, and all its blocks are of one class.

    Args:
        model: A transformers model, with or without a head.
        key: The key of the recipe that wants them, for the message.

    Raises:
        ConfigError: where there is no such stack, more than one, or fewer blocks than layers because layers share weights.
    """
    body = body_of(model)
    stacks = sorted(_outermost(body), key=_size, reverse=True)
    name = type(model).__name__
    if not stacks:
        raise _cannot(key, f"no stack of layers was found in {name}")
    largest, others = stacks[0], stacks[1:]
    if any(_size(stack) > MOST_ELSEWHERE * _size(largest) for stack in others):
        raise _cannot(key, f"{name} has several stacks of layers, so that 'the lower ones' says nothing")
    kinds = {type(block) for block in largest}
    if len(kinds) > 1 or kinds & {nn.ModuleList, nn.ModuleDict}:
        raise _cannot(key, f"the layers of {name} are not of one kind")
    layers = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    if isinstance(layers, int) and layers != len(largest):
        raise _cannot(key, f"{name} runs {layers} layers but has the weights of {len(largest)}")
    return largest


def depths_of(model: Any, key: str = KEY) -> dict[str, int]:
    """Return how far from the input each parameter of a model with L blocks lies, by its name.

    0 is an embedding, and what was registered before the blocks; 1 to L are the blocks, lowest first; L + 1 is what follows them.

    Args:
        model: A transformers model, or a module that holds one.
        key: The key of the recipe that wants to know, for the message.

    Raises:
        ConfigError: where the blocks cannot be told.
    """
    blocks, body = blocks_of(model, key), body_of(model)
    in_blocks = {id(p): number for number, block in enumerate(blocks, start=1) for p in block.parameters()}
    tables: list[nn.Module] = [module for module in body.modules() if isinstance(module, nn.Embedding)]
    tables += [table] if (table := lookup_of(model)) is not None else []
    embedded = {id(p) for table in tables for p in table.parameters()}
    depths, reached = {}, False
    for parameter in body.parameters():
        number = in_blocks.get(id(parameter))
        reached = reached or number is not None
        before = not reached or id(parameter) in embedded
        depths[id(parameter)] = number if number is not None else 0 if before else len(blocks) + 1
    return {name: depths.get(id(parameter), len(blocks) + 1) for name, parameter in model.named_parameters()}


def _outermost(module: nn.Module) -> Iterator[nn.ModuleList]:
    for child in module.children():
        if isinstance(child, nn.ModuleList) and len(child):
            yield child
        else:
            yield from _outermost(child)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _cannot(key: str, why: str) -> ConfigError:
    fix = f"use {KEY}=body, which trains the head only, or {KEY}=none" if key == KEY else f"leave {key} out"
    return ConfigError([Fault(key, why, fix)])
