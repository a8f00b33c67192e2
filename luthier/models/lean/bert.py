"""Give the blocks of a BERT-like model the lean function; parameters, names and files stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from luthier.models.lean.bert_block import BertBlock, Products, Shape, passed
from luthier.models.lean.low_rank import linear_of, low_rank_of, update_of
from luthier.models.lean.shadow import Shadow

PRODUCTS = (slice(0, 3), slice(3, 4), slice(4, 5), slice(5, 6))
"""Which of the six matrices each product holds: queries, keys and values together; then out, up, down."""


class LeanForward:
    """What a block does instead of its own forward.

    Args:
        block: A block of transformers' BERT family.
        first_only: Compute only the first position, which is all that the head reads.
        fast_dropout: Draw dropout masks from 16-bit random numbers.
    """

    def __init__(self, block: Any, *, first_only: bool, fast_dropout: bool) -> None:
        self.block, self.first_only, self.fast_dropout = block, first_only, fast_dropout
        attention, out = block.attention.self, block.attention.output
        matrices = [attention.query, attention.key, attention.value, out.dense, block.intermediate.dense, block.output.dense]
        self.lows = [low_rank_of(layer) for layer in matrices]
        query, key, value, dense, up, down = (linear_of(layer) for layer in matrices)
        layers: list[Any] = [query, key, value, dense, out.LayerNorm, up, down, block.output.LayerNorm]
        self.widths = [layer.weight.shape[0] for layer in (query, key, value, dense, up, down)]
        self.masters = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
        weights, biases = self.masters[::2], self.masters[1::2]
        self.shadows = [Shadow(group) for several in (weights, biases) for group in (several[:3], *([one] for one in _products(several)))]

    def __call__(self, hidden_states: Tensor, attention_mask: Tensor | None = None, *others: Any, **named: Any) -> Tensor:
        """Return the states after the block; where activations are checkpointed, they are computed again in the backward pass.

        Where keys and values come from before (prefix tuning), or adapters were added or merged, the block computes as transformers does.
        """
        if named.get("past_key_values") is not None or not all(low.is_as_found for low in self.lows if low is not None):
            plain: Tensor = type(self.block).forward(self.block, hidden_states, attention_mask, *others, **named)
            return plain
        if getattr(self.block, "gradient_checkpointing", False) and self.block.training:
            again: Tensor = self.block._gradient_checkpointing_func(self._after, hidden_states, attention_mask)
            return again
        return self._after(hidden_states, attention_mask)

    def _after(self, states_BTH: Tensor, mask: Tensor | None) -> Tensor:
        dtype = _type_of_products(states_BTH)
        qkv, out, up, down, *biases = (shadow(dtype) for shadow in self.shadows)
        updates = tuple(update_of(self.lows[few], self.widths[few], dtype) for few in PRODUCTS)
        products = Products(qkv, biases[0], out, biases[1], up, biases[2], down, biases[3], updates)
        factors = [factor for low in self.lows if low is not None and low.is_on for factor in low.factors]
        with torch.autocast(states_BTH.device.type, enabled=False):
            if not torch.is_grad_enabled():
                return passed(states_BTH, mask, self._shape(), products, self.masters, kept=False)[0]
            result: Tensor = BertBlock.apply(states_BTH, mask, self._shape(), products, *self.masters, *factors)
        return result

    def _shape(self) -> Shape:
        attention, out = self.block.attention.self, self.block.attention.output
        active = self.block.training
        return Shape(
            heads=attention.num_attention_heads,
            scale=attention.scaling,
            attention_dropout=attention.dropout.p if active else 0.0,
            dropout=out.dropout.p if active else 0.0,
            eps=out.LayerNorm.eps,
            first_only=self.first_only,
            fast_dropout=self.fast_dropout,
        )


def _products(several: list[Tensor]) -> list[Tensor]:
    """Return what multiplies besides queries, keys and values: out, up and down, without the norms."""
    return [several[3], several[5], several[6]]


def _type_of_products(states: Tensor) -> torch.dtype:
    kind = states.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32


def is_lean(block: Any) -> bool:
    """Whether a block is built like BERT's: post-norm, GELU, absolute positions, no cross-attention."""
    try:
        attention, out = block.attention.self, block.attention.output
        needed = [attention.query, attention.key, attention.value, out.dense, block.intermediate.dense, block.output.dense]
        norms = [out.LayerNorm, block.output.LayerNorm]
    except AttributeError:
        return False
    return (
        all(type(linear_of(layer)) is nn.Linear and linear_of(layer).bias is not None for layer in needed)
        and all(type(norm) is nn.LayerNorm for norm in norms)
        and out.dropout.p == block.output.dropout.p
        and out.LayerNorm.eps == block.output.LayerNorm.eps
        and not getattr(block, "add_cross_attention", False)
        and not getattr(attention, "is_decoder", False)
        and _is_gelu(getattr(block.intermediate, "intermediate_act_fn", None))
    )


def _is_gelu(activation: Any) -> bool:
    return getattr(activation, "act", None) is nn.functional.gelu or (isinstance(activation, nn.GELU) and activation.approximate == "none")


def make_lean(model: nn.Module, answers: Callable[[], np.ndarray] | None = None, *, fast_dropout: bool = True) -> bool:
    """Replace the forward of every block of a model of BERT's kind; returns whether it is one.

    Args:
        model: The model.
        answers: What the model says of a few inputs of several tokens, in evaluation mode; where it stays the same when all
            positions but the first of the last block's output are not numbers, the last block computes no others.
        fast_dropout: Draw dropout masks from 16-bit random numbers.
    """
    blocks: Any = next((found for found in model.modules() if isinstance(found, nn.ModuleList) and len(found)), None)
    if blocks is None or not all(is_lean(block) for block in blocks):
        return False
    first_only = answers is not None and _reads_first_position(answers, blocks[-1])
    for block in blocks:
        block.forward = LeanForward(block, first_only=first_only and block is blocks[-1], fast_dropout=fast_dropout)
    return True


def give_all_positions(model: nn.Module) -> None:
    """Let the last block of a lean model compute every position again, for those who read more than the head does."""
    for module in model.modules():
        forward: Any = module.forward
        if isinstance(forward, LeanForward):
            forward.first_only = False


def _reads_first_position(answers: Callable[[], np.ndarray], last: nn.Module) -> bool:
    def change(_: nn.Module, __: Any, states_BTH: Tensor) -> Tensor:
        return torch.cat([states_BTH[:, :1], torch.full_like(states_BTH[:, 1:], torch.nan)], dim=1)

    plain = answers()
    hook = last.register_forward_hook(change)
    try:
        changed = answers()
    finally:
        hook.remove()
    return bool((plain == changed).all())
