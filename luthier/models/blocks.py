"""The blocks of a transformer, found by what they are, not by the name of the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from luthier.core.errors import ConfigError, Fault
from luthier.models.outline import num_layers_apart

KEY = "model.freeze"
MOST_ELSEWHERE = 0.1  # of the parameters of the largest stack
SIDES = ("encoder", "decoder")
EMBEDS = "embed"  # in the names of norms of embeddings, which some models register after their blocks


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
    return _only_stack(body_of(model), type(model).__name__, getattr(getattr(model, "config", None), "num_hidden_layers", None), key)


def stacks_of(model: Any, key: str = KEY) -> tuple[nn.ModuleList, ...]:
    """Return the stack of blocks of a model; of an encoder-decoder the encoder's and the decoder's.

    Args:
        model: A transformers model, or a module that holds one.
        key: The key of the recipe that wants them, for the message.

    Raises:
        ConfigError: where the blocks cannot be told.
    """
    sides = sides_of(model)
    if not sides:
        return (blocks_of(model, key),)
    body = body_of(model)
    name, layers = type(body).__name__, num_layers_apart(body.config)
    return tuple(
        _only_stack(side, f"the {called} of {name}", number, key) for called, side, number in zip(SIDES, sides, layers, strict=True)
    )


def levels_of(model: Any, key: str = KEY) -> list[tuple[nn.Module, ...]]:
    """Return the blocks by their distance from the output, lowest first: one block each, or one of the encoder and one of the decoder.

    The two stacks of an encoder-decoder stand side by side, level at their tops, as T5 was unfrozen; where one is shorter, the lowest
    levels are blocks of the other alone.

    Args:
        model: A transformers model, or a module that holds one.
        key: The key of the recipe that wants them, for the message.

    Raises:
        ConfigError: where the blocks cannot be told.

    Reference: C. Raffel and others, https://arxiv.org/abs/1910.10683, section 3.5.1
    """
    stacks = stacks_of(model, key)
    height = max(len(stack) for stack in stacks)
    places = [(stack, len(stack) - height) for stack in stacks]
    return [tuple(stack[level + below] for stack, below in places if level + below >= 0) for level in range(height)]


def depths_of(model: Any, key: str = KEY) -> dict[str, int]:
    """Return how far from the input each parameter of a model with L levels of blocks lies, by its name.

    0 is an embedding, and what was registered before the blocks; 1 to L are the blocks, lowest first; L + 1 is what follows them.

    Args:
        model: A transformers model, or a module that holds one.
        key: The key of the recipe that wants to know, for the message.

    Raises:
        ConfigError: where the blocks cannot be told.
    """
    levels, body = levels_of(model, key), body_of(model)
    after = len(levels) + 1
    in_blocks = {id(p): depth for depth, level in enumerate(levels, start=1) for block in level for p in block.parameters()}
    tables: list[nn.Module] = [module for module in body.modules() if isinstance(module, nn.Embedding)]
    tables += [table] if (table := lookup_of(model)) is not None else []
    embedded = {id(p) for table in tables for p in table.parameters()}
    depths = dict(in_blocks)
    for side in (*sides_of(model), body):
        reached = False
        for name, parameter in side.named_parameters():
            reached = reached or id(parameter) in in_blocks
            before = not reached or id(parameter) in embedded or EMBEDS in name
            depths.setdefault(id(parameter), 0 if before else after)
    return {name: depths.get(id(parameter), after) for name, parameter in model.named_parameters()}


def sides_of(model: Any) -> tuple[nn.Module, ...]:
    """Return encoder and decoder where the body of a model has both, each with a stack of blocks; else nothing."""
    body = body_of(model)
    if not getattr(getattr(body, "config", None), "is_encoder_decoder", False):
        return ()
    found = [getattr(body, f"get_{side}", lambda: None)() for side in SIDES]
    sides = tuple(side for side in found if isinstance(side, nn.Module) and side is not body and any(_outermost(side)))
    return sides if len(set(sides)) == len(SIDES) else ()


def _only_stack(module: nn.Module, name: str, layers: Any, key: str) -> nn.ModuleList:
    stacks = sorted(_outermost(module), key=_size, reverse=True)
    if not stacks:
        raise _cannot(key, f"no stack of layers was found in {name}")
    largest, others = stacks[0], stacks[1:]
    if any(_size(stack) > MOST_ELSEWHERE * _size(largest) for stack in others):
        raise _cannot(key, f"{name} has several stacks of layers, so that 'the lower ones' says nothing")
    kinds = {type(block) for block in largest}
    if len(kinds) > 1 or kinds & {nn.ModuleList, nn.ModuleDict}:
        raise _cannot(key, f"the layers of {name} are not of one kind")
    if isinstance(layers, int) and layers != len(largest):
        raise _cannot(key, f"{name} runs {layers} layers but has the weights of {len(largest)}")
    return largest


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
