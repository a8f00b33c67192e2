"""A model that begins with some layers of a deeper pretrained one: the start of a student."""

from __future__ import annotations

from typing import Any

from torch import nn

from luthier.core.errors import ConfigError, Fault
from luthier.models.blocks import blocks_of, body_of
from luthier.models.outline import num_layers, outlining, shortened
from luthier.models.pretrained import Loaded, load_model
from luthier.models.section import ModelSection

LAYERS, KEEP = "model.layers", "model.keep_layers"


def load_with_layers(auto_class: Any, section: ModelSection, config: Any) -> Loaded:
    """Return the model that a section names, with the layers that it keeps; its config counts them.

    Args:
        auto_class: A transformers class with `from_pretrained`.
        section: Which model, and which of its layers.
        config: The config of the whole model.

    Raises:
        ConfigError: if the model has fewer layers, or its layers cannot be told.
        SetupError: if it cannot be loaded.
    """
    if section.layers is None and section.keep_layers is None:
        return load_model(auto_class, section.path, config, quantize=section.quantize)
    kept = kept_layers(section, num_layers(config))
    if outlining():
        return load_model(auto_class, section.path, shortened(config, len(kept)))
    loaded = load_model(auto_class, section.path, config)
    keep(loaded.model, kept)
    names = {name for name, _ in loaded.model.named_parameters()}
    return Loaded(loaded.model, loaded.new & names)


def kept_layers(section: ModelSection, number: int | None) -> tuple[int, ...]:
    """Return the places of the layers that a section keeps, counted from 0 at the input.

    `layers: 3` takes so many at even distances from the lowest: of 6 those at 0, 2, 4.

    Args:
        section: Says how many, or which.
        number: Layers of the whole model; None where its config does not say.

    Raises:
        ConfigError: if the model has fewer.
    """
    key = LAYERS if section.layers is not None else KEEP
    if number is None:
        what = "the config of this model does not say how many layers it has"
        raise ConfigError([Fault(key, what, f"leave {key} out, or use another model")])
    wanted = section.keep_layers or ()
    if section.layers is not None:
        wanted = spread(section.layers, number)
    if len(set(wanted)) < len(wanted) or max(wanted) >= number:
        got = section.layers if section.layers is not None else list(wanted)
        fix = f"at most {LAYERS}={number}" if section.layers is not None else f"numbers from 0 to {number - 1}"
        raise ConfigError([Fault(key, f"got {got}, but {section.path} has {number} layers", fix)])
    return tuple(wanted)


def spread(wanted: int, number: int) -> tuple[int, ...]:
    """Return `wanted` places of `number`, at even distances from the first."""
    return tuple(place * number // wanted for place in range(wanted))


def keep(model: Any, kept: tuple[int, ...]) -> None:
    """Drop the other layers of a model, and let its config say what is left.

    Args:
        model: A model of transformers, with or without a head.
        kept: Places of the layers to keep, ascending.

    Raises:
        ConfigError: if its layers cannot be told.
    """
    blocks = blocks_of(model, LAYERS)
    chosen = nn.ModuleList(blocks[place] for place in kept)
    for place, block in enumerate(chosen):
        inside: list[Any] = list(block.modules())
        for module in inside:
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = place  # where a decoder keeps keys and values
    for parent in list(body_of(model).modules()):
        for name, child in list(parent.named_children()):
            if child is blocks:
                setattr(parent, name, chosen)
    config, number = model.config, len(blocks)
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and name.startswith("layer_") and len(value) == number:
            setattr(config, name, [value[place] for place in kept])
    config.num_hidden_layers = len(kept)
