"""Starts of LoRA that take a part out of the base weights (PiSSA, OLoRA), and the plain LoRA that a trained one amounts to.

What was taken out, A0 and B0, is kept beside each layer: B A - B0 A0 is the change of the untouched base, a LoRA of twice the rank.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FROM_BASE = ("pissa", "olora")
KEPT = "taken_out"


def remember(layers: list[Any], config: Any, name: str) -> None:
    """Keep what a start took out of the base, where it took anything.

    Args:
        layers: Fresh layers of the PEFT library.
        config: Their configuration.
        name: Name of the adapter in them.
    """
    if getattr(config, "init_lora_weights", None) not in FROM_BASE:
        return
    for layer in layers:
        setattr(layer, KEPT, (layer.lora_A[name].weight.detach().clone(), layer.lora_B[name].weight.detach().clone()))


def are_remembered(layers: list[Any]) -> bool:
    """Whether the base in these layers lacks what was taken out."""
    return bool(layers) and hasattr(layers[0], KEPT)


def as_differences(state: dict[str, Any], host: Any, config: Any, name: str) -> tuple[dict[str, Any], Any]:
    """Return weights and configuration of a plain LoRA on the untouched base.

    Args:
        state: Weights by their names in a file.
        host: The model.
        config: Configuration of the trained adapter.
        name: Name of the adapter in the model.
    """
    import torch

    state = dict(state)
    for path, layer in host.named_modules():
        if not hasattr(layer, KEPT):
            continue
        first, second = (tensor.to(layer.lora_A[name].weight) for tensor in getattr(layer, KEPT))
        keys = [f"base_model.model.{path}.lora_{letter}.weight" for letter in "AB"]
        state[keys[0]] = torch.cat([state[keys[0]], first])
        state[keys[1]] = torch.cat([state[keys[1]], -second], dim=1)
    config = copy.copy(config)
    config.lora_alpha *= 2**0.5 if config.use_rslora else 2
    config.r, config.init_lora_weights = 2 * config.r, True
    return state, config


@contextmanager
def put_back(layers: list[Any], name: str) -> Iterator[None]:
    """Within the context the layers hold what was taken out, so that the model is the base."""
    import torch

    halves = [half[name].weight for layer in layers for half in (layer.lora_A, layer.lora_B)]
    pairs = list(zip(halves, [kept for layer in layers for kept in getattr(layer, KEPT)], strict=True))
    trained = [weight.detach().clone() for weight, _ in pairs]
    with torch.no_grad():
        for weight, kept in pairs:
            weight.copy_(kept)
    try:
        yield
    finally:
        with torch.no_grad():
            for (weight, _), own in zip(pairs, trained, strict=True):
                weight.copy_(own)
