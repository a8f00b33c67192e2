"""LoRA inside a lean block: thin products beside the frozen ones, with a backward pass that never makes a whole matrix.

N rows of states, I width that goes in, O width that comes out, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Update:
    """What is added to a product: `(x down^T) up^T`; of several layers that share one product, one below the other.

    Args:
        down_RI: First factors, in the type of the products.
        up_OR: Second factors with their scales in them; where layers share a product, zero between them.
        spans: For each layer its rows of the product and its ranks.
        scales: The scale of each layer.
    """

    down_RI: Tensor
    up_OR: Tensor
    spans: tuple[tuple[slice, slice], ...]
    scales: tuple[float, ...]

    def added(self, product_NO: Tensor, x_NI: Tensor) -> tuple[Tensor, Tensor]:
        """Return the product with the update, and what the first factors made of the states, `(N, R)`."""
        thin_NR = x_NI.mm(self.down_RI.t())
        return product_NO.addmm_(thin_NR, self.up_OR.t()), thin_NR

    def back(self, g_NO: Tensor, x_NI: Tensor, thin_NR: Tensor, g_x_NI: Tensor | None) -> list[Tensor]:
        """Return the gradients of the factors in float32, first and second of each layer in turn; add to that of the states.

        Args:
            g_NO: Gradient of the product.
            x_NI: The states that went in.
            thin_NR: What the first factors made of them.
            g_x_NI: Gradient of the states by way of the frozen product; None where none is wanted.
        """
        g_NR = g_NO.mm(self.up_OR)
        if g_x_NI is not None:
            g_x_NI.addmm_(g_NR, self.down_RI)
        g_down_RI, grads = g_NR.t().mm(x_NI).float(), []
        for (rows, ranks), scale in zip(self.spans, self.scales, strict=True):
            g_up = g_NO[:, rows].t().mm(thin_NR[:, ranks]).float().mul_(scale)
            grads += [g_down_RI[ranks], g_up]
        return grads

    def part(self, rows: slice) -> tuple[Update, slice] | None:
        """Return the update of some rows of the product, which hold each layer whole or not at all, and its ranks; None where none."""
        inside = [place for place, (own, _) in enumerate(self.spans) if rows.start <= own.start and own.stop <= rows.stop]
        if not inside:
            return None
        ranks = slice(self.spans[inside[0]][1].start, self.spans[inside[-1]][1].stop)
        moved = tuple((_moved(self.spans[place][0], rows.start), _moved(self.spans[place][1], ranks.start)) for place in inside)
        return Update(self.down_RI[ranks], self.up_OR[rows, ranks], moved, tuple(self.scales[place] for place in inside)), ranks


class LowRank:
    """The factors of a LoRA layer of the PEFT library.

    Args:
        layer: The layer.
        name: Name of its one adapter.
    """

    def __init__(self, layer: Any, name: str) -> None:
        self._layer, self._name = layer, name

    @property
    def is_on(self) -> bool:
        """Whether the layer adds its product now."""
        return not self._layer.disable_adapters

    @property
    def is_as_found(self) -> bool:
        """Whether the layer has the one adapter it was found with, beside its base: not merged into it, and no other."""
        return list(self._layer.lora_A) == [self._name] == list(self._layer.active_adapters) and not self._layer.merged

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """The parameters: `(R, I)` and `(O, R)`."""
        return self._layer.lora_A[self._name].weight, self._layer.lora_B[self._name].weight

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        return float(self._layer.scaling[self._name])


def linear_of(layer: Any) -> nn.Linear:
    """Return the plain layer that a LoRA layer of the usual form holds, or the layer itself."""
    base: nn.Linear = layer.base_layer if low_rank_of(layer) is not None else layer
    return base


def low_rank_of(layer: Any) -> LowRank | None:
    """Return the factors of a layer, where it is a plain LoRA: one adapter, no dropout, no DoRA, no bias, on a plain matrix."""
    if not hasattr(layer, "lora_A") or len(layer.lora_A) != 1 or not isinstance(getattr(layer, "base_layer", None), nn.Linear):
        return None
    name = next(iter(layer.lora_A))
    plain = (
        isinstance(layer.lora_dropout[name], nn.Identity)
        and name not in getattr(layer, "lora_variant", {})
        and all(isinstance(factors[name], nn.Linear) and factors[name].bias is None for factors in (layer.lora_A, layer.lora_B))
        and list(layer.active_adapters) == [name]
    )
    return LowRank(layer, name) if plain else None


def update_of(lows: Sequence[LowRank | None], widths: Sequence[int], dtype: torch.dtype) -> Update | None:
    """Return the update of the layers of one product, or None where none has one that is on.

    Args:
        lows: The factors of each layer, or None.
        widths: How wide what comes out of each layer is.
        dtype: Type of the products.
    """
    on = [low if low is not None and low.is_on else None for low in lows]
    factors = [low.factors for low in on if low is not None]
    if not factors:
        return None
    down_RI = torch.cat([down.detach() for down, _ in factors]).to(dtype)
    up_OR = down_RI.new_zeros(sum(widths), len(down_RI))
    spans, row, rank = [], 0, 0
    for low, width in zip(on, widths, strict=True):
        if low is not None:
            up = low.factors[1].detach()
            span = (slice(row, row + width), slice(rank, rank + up.shape[1]))
            up_OR[span] = (up * low.scale).to(dtype)
            spans.append(span)
            rank += up.shape[1]
        row += width
    return Update(down_RI, up_OR, tuple(spans), tuple(low.scale for low in on if low is not None))


def _moved(span: slice, by: int) -> slice:
    return slice(span.start - by, span.stop - by)
