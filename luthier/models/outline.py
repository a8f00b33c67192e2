"""Models without their weights: of the right shape and of any number of layers, for plans and trials."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_LAYERS: ContextVar[int | None] = ContextVar("layers of an outline; 0 is all of them", default=None)


@contextmanager
def outlined(layers: int = 0) -> Iterator[None]:
    """Within the context models are built from their configs alone: no weight is read.

    Args:
        layers: How many layers they get; 0: as many as the config says.
    """
    token = _LAYERS.set(layers)
    try:
        yield
    finally:
        _LAYERS.reset(token)


def outlining() -> bool:
    """Whether models are built without their weights now."""
    return _LAYERS.get() is not None


def outlined_model(auto_class: Any, config: Any) -> tuple[Any, frozenset[str]]:
    """Return a model with random weights on the device of the context, and the names of its parameters outside the body.

    Args:
        auto_class: A transformers class with `from_config`.
        config: The config of the whole model.
    """
    model = auto_class.from_config(shortened(config, _LAYERS.get() or 0))
    body = f"{model.base_model_prefix}."
    is_body = not any(name.startswith(body) for name, _ in model.named_parameters())
    return model, frozenset() if is_body else frozenset(name for name, _ in model.named_parameters() if not name.startswith(body))


def shortened(config: Any, layers: int) -> Any:
    """Return a config with fewer layers; 0 leaves it as it is."""
    if not layers or num_layers(config) is None:
        return config
    changed = copy.deepcopy(config)
    for name, value in vars(config).items():
        if isinstance(value, list) and name.startswith("layer_") and len(value) == num_layers(config):
            setattr(changed, name, value[:layers])
    changed.num_hidden_layers = layers
    return changed


def num_layers(config: Any) -> int | None:
    """Return how many layers a model has; None where its config does not say."""
    return getattr(config, "num_hidden_layers", None)


def num_layers_apart(config: Any) -> tuple[int | None, int | None]:
    """Return how many layers encoder and decoder of an encoder-decoder have, each None where its config does not say."""
    sides = (("encoder", ("encoder_layers", "num_hidden_layers")), ("decoder", ("decoder_layers", "num_decoder_layers")))
    found = []
    for side, names in sides:
        said = [getattr(config, name, None) for name in names] + [num_layers(getattr(config, side, None))]
        found.append(next((number for number in said if isinstance(number, int)), None))
    return found[0], found[1]


def num_levels(config: Any) -> int | None:
    """Return how many levels of blocks a model has, of an encoder-decoder those of its deeper half; None where its config does not say."""
    if not getattr(config, "is_encoder_decoder", False):
        return num_layers(config)
    return max((number for number in num_layers_apart(config) if number is not None), default=None)
