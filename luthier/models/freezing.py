"""Freeze the lower part of a classifier, or everything but its head."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import nn

from luthier.core.errors import ConfigError, Fault
from luthier.models.blocks import KEY, blocks_of, depths_of

Freeze = int | Literal["body"]


@dataclass(frozen=True)
class Lower:
    """The frozen part of a model that is computed first, the same for a row at every step.

    Args:
        body: The whole body, where nothing in it is trained; else None.
        blocks: The frozen blocks, lowest first, where the body is trained in part.
        embeddings: What makes the input of the first block out of token ids, if it is one module.
    """

    body: nn.Module | None
    blocks: tuple[nn.Module, ...]
    embeddings: nn.Module | None


def freeze(model: Any, how: Freeze, new: frozenset[str]) -> None:
    """Freeze parameters, and keep the modules they are in in evaluation mode for good: dropout is off in what is frozen.

    Args:
        model: A classifier.
        how: A number k freezes the embeddings (rows for new characters too) and the lower k blocks; `body` all but the head.
        new: Names of the parameters that started from nothing.

    Raises:
        ConfigError: if the model has fewer blocks, its blocks cannot be found, or nothing would be left to train.
    """
    frozen = _all_but_head(model, new) if how == "body" else _lower(model, how)
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError([Fault(KEY, "nothing would be left to train", f"freeze fewer layers, or leave out {KEY}")])
    _still(model.base_model)


def lower_part(model: Any, how: Freeze) -> Lower | None:
    """Return the frozen part of a model that `freeze` has frozen, or None where no whole block is frozen."""
    body = model.base_model
    if not any(parameter.requires_grad for parameter in body.parameters()):
        return Lower(body, (), None)
    try:
        blocks = blocks_of(model)
    except ConfigError:
        return None
    chosen = tuple(blocks) if how == "body" else tuple(blocks)[:how]
    return Lower(None, chosen, _embeddings(model, blocks)) if chosen else None


def has_grown(model: Any) -> bool:
    """Whether the model has rows for characters that it was not pretrained on."""
    from luthier.models.grown_embedding import GrownEmbedding

    return isinstance(model.get_input_embeddings(), GrownEmbedding)


def _all_but_head(model: Any, new: frozenset[str]) -> set[str]:
    looked_up = {id(parameter) for parameter in model.get_input_embeddings().parameters()}
    body = {id(parameter) for parameter in model.base_model.parameters()}
    return {
        name for name, parameter in model.named_parameters() if id(parameter) in looked_up or (id(parameter) in body and name not in new)
    }


def _lower(model: Any, num_blocks: int) -> set[str]:
    """Return the names of what comes before block `num_blocks`: registered before the blocks, or an embedding, or in them."""
    blocks = blocks_of(model)
    if num_blocks > len(blocks):
        raise ConfigError(
            [Fault(KEY, f"got {num_blocks}, but the model has {len(blocks)} layers", f"at most {KEY}={len(blocks)}, or {KEY}=body")]
        )
    return {name for name, depth in depths_of(model).items() if depth <= num_blocks}


def _embeddings(model: Any, blocks: nn.Module) -> nn.Module | None:
    """Return the largest module around the word embedding that has no block in it."""
    lookup = model.get_input_embeddings()
    inside = set(blocks.modules())
    around = [module for module in model.base_model.modules() if lookup in set(module.modules())]
    return next((module for module in around if not inside & set(module.modules())), None)


def _still(module: nn.Module) -> None:
    """Keep in evaluation mode what has no trained parameter; what is trained throughout is left alone."""
    trained = [parameter.requires_grad for parameter in module.parameters()]
    if not any(trained):
        module.eval()
        module.train = partial(_stay, module)  # type: ignore[method-assign]
    elif not all(trained):
        for child in module.children():
            _still(child)


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    """Stand in the place of `train`: a frozen module stays in evaluation mode."""
    return module
