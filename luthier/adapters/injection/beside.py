"""A narrow network after a layer of the base, and the layer with it.

H width of the states, K of the network.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


class Narrow(nn.Module):
    """States plus what a network of two layers makes of them; nothing at first, for its second layer begins at zero.

    Args:
        width: H.
        size: K.
        activation: Between the two layers.
    """

    def __init__(self, width: int, size: int, activation: str) -> None:
        super().__init__()
        self.on = True
        self.down, self.act, self.up = nn.Linear(width, size), ACTIVATIONS[activation](), nn.Linear(size, width)
        for start in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(start)

    def forward(self, states: Tensor) -> Tensor:
        """Return the states, changed."""
        if not self.on:
            return states
        changed: Tensor = states + self.up(self.act(self.down(states)))
        return changed


class Beside(nn.Module):
    """A layer of the base, and a narrow network after it.

    Args:
        base_layer: The layer.
        bottleneck: The network.
    """

    def __init__(self, base_layer: nn.Module, bottleneck: Narrow) -> None:
        super().__init__()
        self.base_layer, self.bottleneck = base_layer, bottleneck

    @property
    def weight(self) -> Any:
        """The weight of the layer, at which some models look."""
        return self.base_layer.weight

    @property
    def bias(self) -> Any:
        """The bias of the layer."""
        return self.base_layer.bias

    def forward(self, states: Tensor) -> Tensor:
        """Return what the network makes of what the layer gives."""
        changed: Tensor = self.bottleneck(self.base_layer(states))
        return changed
