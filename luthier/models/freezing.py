"""Which parameters are trained: freeze the lower part of a model, everything but its head, or what globs fit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import nn

from luthier.core.errors import ConfigError, Fault
from luthier.core.patterns import fitting
from luthier.models.blocks import KEY, blocks_of, body_of, depths_of, levels_of, lookup_of, stacks_of

Freeze = int | Literal["body"] | tuple[str, ...]
Train = Literal["bitfit", "norms"] | tuple[str, ...]
TRAIN = "model.train"
WORDS = {"bitfit": "biases", "norms": "norms"}


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
    """Freeze parameters, and keep the lower part of the model, where all of it is frozen, in evaluation mode for good.

    Args:
        model: A model of transformers, or a module that holds one.
        how: A number k freezes the embeddings (rows for new characters too) and the lower k blocks, of an encoder-decoder the lower k
            levels; `body` all but the head; globs what they fit.
        new: Names of the parameters that started from nothing.

    Raises:
        ConfigError: if the model has fewer blocks, its blocks cannot be found, a glob fits nothing, or nothing would be left to train.
    """
    if how == "body":
        frozen = _all_but_head(model, new)
    elif isinstance(how, int):
        frozen = _lower(model, how)
    else:
        names = [name for name, _ in model.named_parameters()]
        frozen = set[str]().union(*fitting(names, how, KEY).values())
    _freeze(model, frozen, new, _nothing_left(model, how))


def train_only(model: Any, what: Train, new: frozenset[str]) -> None:
    """Freeze everything but the head and what is named.

    Args:
        model: A model of transformers, or a module that holds one.
        what: `bitfit` for biases, `norms` for the weights and biases of norms, or globs.
        new: Names of the parameters that started from nothing.

    Raises:
        ConfigError: if that is nothing, or everything.
    """
    names = [name for name, _ in model.named_parameters()]
    body = _all_but_head(model, new)
    wanted = _named(model, what) if isinstance(what, str) else set[str]().union(*fitting(names, what, TRAIN).values())
    if isinstance(what, str) and not wanted & body:
        fix = f"name another, such as {TRAIN}={'norms' if what == 'bitfit' else 'bitfit'}, or an adapter"
        raise ConfigError([Fault(TRAIN, f"{type(body_of(model)).__name__} has no {WORDS[what]}", fix)])
    if body <= wanted:
        raise ConfigError([Fault(TRAIN, "what is named is the whole model", f"leave {TRAIN} out, or name less")])
    _freeze(model, body - wanted, new, Fault(TRAIN, "nothing would be trained", "name more"))


def hold_still(model: Any, *, otherwise: bool = False) -> None:
    """Keep the lower part of a model, up to its lowest trained parameter, in evaluation mode for good where nothing in it is trained.

    Args:
        model: A model of transformers, or a module that holds one.
        otherwise: Whether that is to be done with everything that is frozen where the blocks cannot be told.
    """
    try:
        above, still = {block for stack in stacks_of(model) for block in _from_trained(stack)}, _lowest_trained(model) > 0
    except ConfigError:
        above, still = set(), otherwise
    if still:
        _still(body_of(model), above)


def lower_part(model: Any) -> Lower | None:
    """Return the lower part of a model in which everything is frozen, or None where that is no whole block."""
    body = body_of(model)
    if not any(parameter.requires_grad for parameter in body.parameters()):
        return Lower(body, (), None)
    try:
        blocks, lowest = blocks_of(model), _lowest_trained(model)
    except ConfigError:
        return None
    chosen = tuple(blocks)[: max(lowest - 1, 0)]
    return Lower(None, chosen, _embeddings(model, blocks)) if chosen else None


def has_grown(model: Any) -> bool:
    """Whether the model has rows for characters that it was not pretrained on."""
    from luthier.models.grown_embedding import GrownEmbedding

    return isinstance(lookup_of(model), GrownEmbedding)


def _all_but_head(model: Any, new: frozenset[str]) -> set[str]:
    lookup = lookup_of(model)
    looked_up = {id(parameter) for parameter in lookup.parameters()} if lookup is not None else set()
    body = {id(parameter) for parameter in body_of(model).parameters()}
    body -= _answering(model)
    return {
        name for name, parameter in model.named_parameters() if id(parameter) in looked_up or (id(parameter) in body and name not in new)
    }


def _answering(model: Any) -> set[int]:
    """Return the layer that gives the scores of words, by `id` of its parameters; T5 has it among those of its body."""
    held = model if hasattr(model, "get_output_embeddings") else getattr(model, "model", model)
    layer = held.get_output_embeddings() if hasattr(held, "get_output_embeddings") else None
    return {id(parameter) for parameter in layer.parameters()} if layer is not None else set()


def _nothing_left(model: Any, how: Freeze) -> Fault:
    what = "nothing would be left to train"
    if how != "body":
        return Fault(KEY, what, f"freeze less, or leave out {KEY}")
    name, writes = type(body_of(model)).__name__, bool(_answering(model))
    why = f"{name} gives the scores of words with its word table" if writes else f"there is no head beside {name}"
    return Fault(KEY, f"{why}: {what}", f"freeze the lower layers by their number, such as {KEY}=2, or train an adapter: adapter.type=lora")


def _lower(model: Any, num_blocks: int) -> set[str]:
    """Return the names of what comes before block `num_blocks`: registered before the blocks, or an embedding, or in them."""
    number = len(levels_of(model))
    if num_blocks > number:
        raise ConfigError([Fault(KEY, f"got {num_blocks}, but the model has {number} layers", f"at most {KEY}={number}, or {KEY}=body")])
    return {name for name, depth in depths_of(model).items() if depth <= num_blocks}


def _embeddings(model: Any, blocks: nn.Module) -> nn.Module | None:
    """Return the largest module around the word embedding that has no block in it."""
    lookup = lookup_of(model)
    inside = set(blocks.modules())
    around = [module for module in body_of(model).modules() if lookup in set(module.modules())]
    return next((module for module in around if not inside & set(module.modules())), None)


def _freeze(model: Any, frozen: set[str], new: frozenset[str], otherwise: Fault) -> None:
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError([otherwise])
    hold_still(model, otherwise=_all_but_head(model, new) <= frozen)


def _lowest_trained(model: Any) -> int:
    """Return the depth of the lowest parameter that is trained."""
    depths = depths_of(model)
    return min(depths[name] for name, parameter in model.named_parameters() if parameter.requires_grad)


def _from_trained(stack: nn.ModuleList) -> list[nn.Module]:
    """Return the blocks of a stack from the lowest one in which something is trained."""
    trained = (place for place, block in enumerate(stack) if any(parameter.requires_grad for parameter in block.parameters()))
    return list(stack)[next(trained, len(stack)) :]


def _named(model: Any, what: str) -> set[str]:
    """Return the names of all biases, or of the parameters of all norms."""
    if what == "bitfit":
        return {name for name, _ in model.named_parameters() if name.rpartition(".")[2] == "bias"}
    norms = [module for module in model.modules() if "norm" in type(module).__name__.lower() and not list(module.children())]
    inside = {id(parameter) for module in norms for parameter in module.parameters(recurse=False)}
    return {name for name, parameter in model.named_parameters() if id(parameter) in inside}


def _still(module: nn.Module, above: set[nn.Module]) -> None:
    """Keep in evaluation mode what has no trained parameter; what is trained throughout, and the upper blocks, are left alone."""
    if module in above:
        return
    trained = [parameter.requires_grad for parameter in module.parameters()]
    if not any(trained):
        module.eval()
        module.train = partial(_stay, module)  # type: ignore[method-assign]
    elif not all(trained):
        for child in module.children():
            _still(child, above)


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    """Stand in the place of `train`: a frozen module stays in evaluation mode."""
    return module
