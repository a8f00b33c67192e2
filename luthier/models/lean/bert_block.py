"""A BERT block as one function: one product for queries, keys and values, residual and dropout in one pass, no casts between.

B rows, T tokens, N = B * T, H width, A heads, D width of a head, F width of the feed-forward layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear

from luthier.models.lean.random_bits import dropout_mask

aten = torch.ops.aten


@dataclass(frozen=True)
class Shape:
    """What a block is besides its weights: heads, scale of the scores, dropout of probabilities and states, epsilon of the norms."""

    heads: int
    scale: float
    attention_dropout: float
    dropout: float
    eps: float
    first_only: bool = False
    fast_dropout: bool = True

    def mask(self, of: Tensor, p: float) -> Tensor | None:
        """Return the dropout mask of a tensor, or None where nothing is dropped."""
        if not p:
            return None
        if self.fast_dropout:
            return dropout_mask(tuple(of.shape), p, of.dtype, of.device)
        return torch.empty_like(of).bernoulli_(1 - p).div_(1 - p)


@dataclass(frozen=True)
class Products:
    """Weights in the type of the products: queries, keys and values as one `(3H, H)`, then out, up and down, each with its bias."""

    qkv: Tensor
    qkv_bias: Tensor
    out: Tensor
    out_bias: Tensor
    up: Tensor
    up_bias: Tensor
    down: Tensor
    down_bias: Tensor


class BertBlock(torch.autograd.Function):
    """The whole block, forward and backward by hand.

    Reference: https://arxiv.org/abs/1810.04805
    """

    @staticmethod
    def forward(ctx: Any, states_BTH: Tensor, mask: Tensor | None, shape: Shape, w: Products, *masters: Tensor) -> Tensor:
        """Return the states after the block, `(B, T, H)`; `(B, 1, H)` where only the first position is wanted.

        Args:
            ctx: Kept for the backward pass.
            states_BTH: States before the block.
            mask: Added to the scores, `(B, 1, 1 or T, T)`, or None.
            shape: What the block is besides its weights.
            w: Weights in the type of the products.
            *masters: The parameters that get gradients: query, key, value, out, norm, up, down, norm, each weight and bias.
        """
        result, saved = passed(states_BTH, mask, shape, w, masters, kept=True)
        ctx.save_for_backward(*saved, *masters)
        ctx.sizes, ctx.shape, ctx.w = states_BTH.shape, shape, w
        ctx.input_type = states_BTH.dtype
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Return the gradient of the states and of every parameter that wants one."""
        x, qkv, probs, kept, context, keep1, middle, up, active, keep2, *rest = ctx.saved_tensors
        summed, mean1, rstd1, summed2, mean2, rstd2, *masters = rest
        (B, T, H), shape, w = ctx.sizes, ctx.shape, ctx.w
        wanted = ctx.needs_input_grad[4:]
        grads: list[Tensor | None] = [None] * 16
        g = gradients[0].reshape(-1, H).to(x.dtype)
        g, grads[14], grads[15] = _norm_back(g, summed2, mean2, rstd2, masters[14:16])
        g_middle = g
        g = g if keep2 is None else g * keep2
        grads[12], grads[13] = _weights_back(g, active, wanted[12:14])
        g = aten.gelu_backward(g.mm(w.down), up)
        grads[10], grads[11] = _weights_back(g, middle, wanted[10:12])
        g = torch.addmm(g_middle, g, w.up)
        g, grads[8], grads[9] = _norm_back(g, summed, mean1, rstd1, masters[8:10])
        g_x = g
        g = g if keep1 is None else g * keep1
        grads[6], grads[7] = _weights_back(g, context, wanted[6:8])
        g_qkv = _attend_back(g.mm(w.out), (B, T), qkv, probs, kept, shape)
        back = _queries_first if shape.first_only else _queries_all
        g_states = back(grads, g_x, g_qkv, x.view(B, T, H), w, (wanted, ctx.needs_input_grad[0]))
        return (None if g_states is None else g_states.view(B, T, H).to(ctx.input_type), None, None, None, *_only(grads, wanted))


def passed(
    states_BTH: Tensor, mask: Tensor | None, shape: Shape, w: Products, masters: Sequence[Tensor], *, kept: bool
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Return the states after the block, and what the backward pass needs where that is kept; arguments as in `BertBlock`."""
    B, T, H = states_BTH.shape
    x = states_BTH.to(w.qkv.dtype).reshape(B * T, H)
    probs, keep, context, qkv = _attend(x, (B, T), mask, shape, w)
    residual = x.view(B, T, H)[:, 0] if shape.first_only else x
    summed, keep1 = _add(residual, linear(context, w.out, w.out_bias), shape)
    middle, mean1, rstd1 = aten.native_layer_norm(summed, (H,), masters[8], masters[9], shape.eps)
    up, active = _widened(middle, w, kept=kept)
    summed2, keep2 = _add(middle, linear(active, w.down, w.down_bias), shape)
    result, mean2, rstd2 = aten.native_layer_norm(summed2, (H,), masters[14], masters[15], shape.eps)
    norms = (summed, mean1, rstd1, summed2, mean2, rstd2)
    saved = (x, qkv, probs, keep, context, keep1, middle, up, active, keep2, *norms) if kept else ()
    return result.view(B, -1, H), saved


def _attend(
    x: Tensor, size: tuple[int, int], mask: Tensor | None, shape: Shape, w: Products
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Return probabilities, the dropout mask of them, the context `(N or B, H)`, and queries, keys and values `(3, B * A, T, D)`."""
    (B, T), A = size, shape.heads
    D = x.shape[1] // A
    qkv = linear(x, w.qkv, w.qkv_bias).view(B, T, 3, A, D).permute(2, 0, 3, 1, 4).reshape(3, B * A, T, D)
    queries = qkv[0, :, :1] if shape.first_only else qkv[0]
    scores = torch.bmm(queries, qkv[1].transpose(1, 2)).mul_(shape.scale)
    if mask is not None:
        scores = _masked(scores.view(B, A, -1, T), mask[:, :, :1] if shape.first_only else mask).view(B * A, -1, T)
    probs = scores.float().softmax(-1).to(scores.dtype)  # the float32 kernel is faster, both casts included
    kept = shape.mask(probs, shape.attention_dropout)
    context = torch.bmm(probs if kept is None else probs * kept, qkv[2])
    return probs, kept, context.view(B, A, -1, D).transpose(1, 2).reshape(-1, A * D), qkv


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
    return scores.add_(mask)


def _attend_back(g: Tensor, size: tuple[int, int], qkv: Tensor, probs: Tensor, kept: Tensor | None, shape: Shape) -> tuple[Tensor, Tensor]:
    """Return the gradient of the queries `(B * A, T or 1, D)`, and of the keys and values `(2, B * A, T, D)`."""
    (B, T), A = size, shape.heads
    D = g.shape[1] // A
    g = g.view(B, -1, A, D).transpose(1, 2).reshape(B * A, -1, D)
    g_probs = torch.bmm(g, qkv[2].transpose(1, 2))
    dropped = probs
    if kept is not None:
        dropped = probs * kept
        g_probs = g_probs.mul_(kept)
    g_scores = aten._softmax_backward_data(g_probs.float(), probs.float(), -1, torch.float32).mul_(shape.scale).to(g.dtype)
    g_kv = torch.empty(2, B * A, T, D, dtype=g.dtype, device=g.device)
    queries = qkv[0, :, :1] if shape.first_only else qkv[0]
    torch.bmm(g_scores.transpose(1, 2), queries, out=g_kv[0])
    torch.bmm(dropped.transpose(1, 2), g, out=g_kv[1])
    return torch.bmm(g_scores, qkv[1]), g_kv


def _queries_all(
    grads: list[Tensor | None], g_x: Tensor, g_qkv: tuple[Tensor, Tensor], x_BTH: Tensor, w: Products, wanted: Any
) -> Tensor | None:
    """Fill the gradients of queries, keys and values; return that of the states, `(N, H)`."""
    B, T, H = x_BTH.shape
    A = g_qkv[0].shape[0] // B
    g = torch.cat([g_qkv[0].unsqueeze(0), g_qkv[1]]).view(3, B, A, T, -1).permute(1, 3, 0, 2, 4).reshape(B * T, 3 * H)
    weight, bias = _weights_back(g, x_BTH.view(B * T, H), (any(wanted[0][:6:2]), any(wanted[0][1:6:2])))
    for place in range(3):
        span = slice(place * H, (place + 1) * H)
        grads[2 * place] = None if weight is None else weight[span]
        grads[2 * place + 1] = None if bias is None else bias[span]
    return torch.addmm(g_x, g, w.qkv) if wanted[1] else None


def _queries_first(
    grads: list[Tensor | None], g_x: Tensor, g_qkv: tuple[Tensor, Tensor], x_BTH: Tensor, w: Products, wanted: Any
) -> Tensor | None:
    """The same where only the first position asked."""
    B, T, H = x_BTH.shape
    A = g_qkv[0].shape[0] // B
    g_q = g_qkv[0].reshape(B, H)
    g_kv = g_qkv[1].view(2, B, A, T, -1).permute(1, 3, 0, 2, 4).reshape(B * T, 2 * H)
    first = x_BTH[:, 0]
    grads[0], grads[1] = _weights_back(g_q, first, wanted[0][0:2])
    weight, bias = _weights_back(g_kv, x_BTH.view(B * T, H), (any(wanted[0][2:6:2]), any(wanted[0][3:6:2])))
    for place in (1, 2):
        span = slice((place - 1) * H, place * H)
        grads[2 * place] = None if weight is None else weight[span]
        grads[2 * place + 1] = None if bias is None else bias[span]
    if not wanted[1]:
        return None
    g = g_kv.mm(w.qkv[H:]).view(B, T, H)
    g[:, 0] += torch.addmm(g_x, g_q, w.qkv[:H])
    return g


def _widened(states: Tensor, w: Products, *, kept: bool) -> tuple[Tensor | None, Tensor]:
    """Return the wide states before GELU, where they are kept for the backward pass, and after it."""
    if kept or states.dtype != torch.bfloat16 or states.device.type != "cpu":
        up = linear(states, w.up, w.up_bias)
        return up, gelu(up)
    return None, torch.ops.mkldnn._linear_pointwise(states, w.up, w.up_bias, "gelu", [], "none")


def _add(residual: Tensor, states: Tensor, shape: Shape) -> tuple[Tensor, Tensor | None]:
    """Return residual + dropout(states), and the mask."""
    kept = shape.mask(states, shape.dropout)
    if kept is None:
        return states.add_(residual), None
    return torch.addcmul(residual, states, kept), kept


def _norm_back(g: Tensor, summed: Tensor, mean: Tensor, rstd: Tensor, masters: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of what was normed, of the norm's weight and of its bias."""
    back: tuple[Tensor, Tensor, Tensor] = aten.native_layer_norm_backward(
        g, summed, summed.shape[1:], mean, rstd, masters[0], masters[1], [True, True, True]
    )
    return back


def _weights_back(g: Tensor, fed: Tensor, wanted: Any) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of a weight and its bias, in float32."""
    weight = g.t().mm(fed).float() if wanted[0] else None
    return weight, g.sum(0).float() if wanted[1] else None


def _only(grads: list[Tensor | None], wanted: Any) -> list[Tensor | None]:
    return [grad if want else None for grad, want in zip(grads, wanted, strict=True)]
