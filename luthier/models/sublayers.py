"""Where attention and feed-forward end in each block of a transformer, found by the sizes of its matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from luthier.core.errors import ConfigError, Fault
from luthier.models.blocks import stacks_of


@dataclass(frozen=True)
class Ends:
    """The last matrices of a block's two halves, by their names in the model.

    Args:
        attention: Gives what attention adds to the states.
        feed_forward: Gives what the feed-forward layer adds to them.
    """

    attention: str
    feed_forward: str


def ends_of(model: Any, key: str) -> list[Ends]:
    """Return where attention and feed-forward end in each block, lowest first; of two stacks those of the encoder first.

    The last matrix of a block that gives states is the end of its feed-forward layer. Before it stand those that widen the states to what
    it takes, and before them the end of attention; in a decoder with an encoder that is the attention to what was read.

    Args:
        model: A transformers model, with or without a head.
        key: The key of the recipe that wants them, for the message.

    Raises:
        ConfigError: where the blocks cannot be told, or the matrices in them are others, such as those of experts.
    """
    width = model.config.get_text_config().hidden_size
    blocks = [block for stack in stacks_of(model, key) for block in stack]
    paths = {id(module): name for name, module in model.named_modules()}
    found = []
    for block in blocks:
        ends = _ends(block, width)
        if ends is None:
            what = f"the blocks of a {model.config.model_type} are not one attention and one feed-forward layer"
            raise ConfigError([Fault(key, what, f"{key}=lora")])
        found.append(Ends(*(f"{paths[id(block)]}.{name}" for name in ends)))
    return found


def _ends(block: nn.Module, width: int) -> tuple[str, str] | None:
    """Return the names of the two in a block, or None where they cannot be told."""
    lists = [module for module in block.modules() if isinstance(module, nn.ModuleList)]
    several = any(len({type(inner) for inner in module}) < len(module) for module in lists)
    if several or any(parameter.ndim > 2 for parameter in block.parameters()):
        return None
    layers = [(name, *sizes) for name, module in block.named_modules() if (sizes := _sizes(module)) is not None]
    last = max((place for place, (_, _, given) in enumerate(layers) if given == width), default=0)
    inner = layers[last][1] if layers else width
    first = last
    while first and layers[first - 1][1] == width and layers[first - 1][2] in (inner, 2 * inner):
        first -= 1
    if inner == width or first in (0, last) or layers[first - 1][2] != width:
        return None
    return layers[first - 1][0], layers[last][0]


def _sizes(module: nn.Module) -> tuple[int, int] | None:
    """Return how many numbers a matrix takes and gives, or None of another module."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return (int(module.weight.shape[0]), int(module.weight.shape[1])) if isinstance(module, Conv1D) else None
