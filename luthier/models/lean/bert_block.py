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

from luthier.models.lean.low_rank import Update
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
    """Weights in the type of the products: queries, keys and values as one `(3H, H)`, then out, up and down, each with its bias.

    Beside each of the four stands the low-rank update that LoRA adds to it, or None.
    """

    qkv: Tensor
    qkv_bias: Tensor
    out: Tensor
    out_bias: Tensor
    up: Tensor
    up_bias: Tensor
    down: Tensor
    down_bias: Tensor
    updates: tuple[Update | None, ...] = (None, None, None, None)


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
            *masters: The parameters that get gradients: query, key, value, out, norm, up, down, norm, each weight and bias; after these
                16 the factors of the updates, in the order of the products.
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
        summed, mean1, rstd1, summed2, mean2, rstd2, *rest = rest
        thin, masters = rest[:4], rest[4:]
        (B, T, H), shape, w = ctx.sizes, ctx.shape, ctx.w
        wanted = ctx.needs_input_grad[4:]
        grads: list[Tensor | None] = [None] * 16
        factors: list[list[Tensor]] = []
        g = gradients[0].reshape(-1, H).to(x.dtype)
        g, grads[14], grads[15] = _norm_back(g, summed2, mean2, rstd2, masters[14:16])
        g_middle = g
        g = g if keep2 is None else g * keep2
        grads[12], grads[13] = _weights_back(g, active, wanted[12:14])
        g = aten.gelu_backward(_through(g, g.mm(w.down), active, (w.updates[3], thin[3]), factors), up)
        grads[10], grads[11] = _weights_back(g, middle, wanted[10:12])
        g = _through(g, torch.addmm(g_middle, g, w.up), middle, (w.updates[2], thin[2]), factors)
        g, grads[8], grads[9] = _norm_back(g, summed, mean1, rstd1, masters[8:10])
        g_x = g
        g = g if keep1 is None else g * keep1
        grads[6], grads[7] = _weights_back(g, context, wanted[6:8])
        g_context = _through(g, g.mm(w.out), context, (w.updates[1], thin[1]), factors)
        g_qkv = _attend_back(g_context, (B, T), qkv, probs, kept, shape)
        back = _queries_first if shape.first_only else _queries_all
        g_states = back(grads, g_x, g_qkv, x.view(B, T, H), w, (wanted, ctx.needs_input_grad[0], thin[0], factors))
        grads += [grad for found in reversed(factors) for grad in found]
        return (None if g_states is None else g_states.view(B, T, H).to(ctx.input_type), None, None, None, *_only(grads, wanted))


def passed(
    states_BTH: Tensor, mask: Tensor | None, shape: Shape, w: Products, masters: Sequence[Tensor], *, kept: bool
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Return the states after the block, and what the backward pass needs where that is kept; arguments as in `BertBlock`."""
    B, T, H = states_BTH.shape
    x = states_BTH.to(w.qkv.dtype).reshape(B * T, H)
    probs, keep, context, qkv, thin = _attend(x, (B, T), mask, shape, w)
    residual = x.view(B, T, H)[:, 0] if shape.first_only else x
    out, thin_out = _product(context, w.out, w.out_bias, w.updates[1])
    summed, keep1 = _add(residual, out, shape)
    middle, mean1, rstd1 = aten.native_layer_norm(summed, (H,), masters[8], masters[9], shape.eps)
    up, active, thin_up = _widened(middle, w, kept=kept)
    down, thin_down = _product(active, w.down, w.down_bias, w.updates[3])
    summed2, keep2 = _add(middle, down, shape)
    result, mean2, rstd2 = aten.native_layer_norm(summed2, (H,), masters[14], masters[15], shape.eps)
    norms, thins = (summed, mean1, rstd1, summed2, mean2, rstd2), (thin, thin_out, thin_up, thin_down)
    saved = (x, qkv, probs, keep, context, keep1, middle, up, active, keep2, *norms, *thins) if kept else ()
    return result.view(B, -1, H), saved


def _product(x: Tensor, weight: Tensor, bias: Tensor, update: Update | None) -> tuple[Tensor, Tensor | None]:
    """Return the product with its update, and the thin states of that."""
    product = linear(x, weight, bias)
    return (product, None) if update is None else update.added(product, x)


def _through(g: Tensor, g_fed: Tensor, fed: Tensor, low: tuple[Update | None, Tensor | None], factors: list[list[Tensor]]) -> Tensor:
    """Return the gradient of what was fed to a product, with the part that goes through its update; keep the factors' gradients."""
    update, thin = low
    if update is not None and thin is not None:
        factors.append(update.back(g, fed, thin, g_fed))
    return g_fed


def _attend(
    x: Tensor, size: tuple[int, int], mask: Tensor | None, shape: Shape, w: Products
) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor | None]:
    """Return probabilities, their dropout mask, the context `(N or B, H)`, queries, keys and values `(3, B * A, T, D)`, thin states."""
    (B, T), A = size, shape.heads
    D = x.shape[1] // A
    flat, thin = _product(x, w.qkv, w.qkv_bias, w.updates[0])
    qkv = flat.view(B, T, 3, A, D).permute(2, 0, 3, 1, 4).reshape(3, B * A, T, D)
    queries = qkv[0, :, :1] if shape.first_only else qkv[0]
    scores = torch.bmm(queries, qkv[1].transpose(1, 2)).mul_(shape.scale)
    if mask is not None:
        scores = _masked(scores.view(B, A, -1, T), mask[:, :, :1] if shape.first_only else mask).view(B * A, -1, T)
    probs = scores.float().softmax(-1).to(scores.dtype)  # the float32 kernel is faster, both casts included
    kept = shape.mask(probs, shape.attention_dropout)
    context = torch.bmm(probs if kept is None else probs * kept, qkv[2])
    return probs, kept, context.view(B, A, -1, D).transpose(1, 2).reshape(-1, A * D), qkv, thin


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
    g_states = torch.addmm(g_x, g, w.qkv) if wanted[1] else None
    if w.updates[0] is not None:
        wanted[3].append(w.updates[0].back(g, x_BTH.view(B * T, H), wanted[2], g_states))
    return g_states


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
    g_rest = g_kv.mm(w.qkv[H:]) if wanted[1] else None
    g_first = torch.addmm(g_x, g_q, w.qkv[:H]) if wanted[1] else None
    if w.updates[0] is not None:
        thin_BTR, found = wanted[2].view(B, T, -1), []
        for rows, g, fed, g_fed in ((slice(0, H), g_q, first, g_first), (slice(H, 3 * H), g_kv, x_BTH.view(B * T, H), g_rest)):
            part = w.updates[0].part(rows)
            if part is not None:
                thin = thin_BTR[:, 0] if g is g_q else thin_BTR.view(B * T, -1)
                found += part[0].back(g, fed, thin[:, part[1]], g_fed)
        wanted[3].append(found)
    if g_rest is None or g_first is None:
        return None
    g_BTH = g_rest.view(B, T, H)
    g_BTH[:, 0] += g_first
    return g_BTH


def _widened(states: Tensor, w: Products, *, kept: bool) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Return the wide states before GELU, where they are kept for the backward pass, those after it, and the thin ones."""
    if kept or states.dtype != torch.bfloat16 or states.device.type != "cpu" or w.updates[2] is not None:
        up, thin = _product(states, w.up, w.up_bias, w.updates[2])
        return up, gelu(up), thin
    return None, torch.ops.mkldnn._linear_pointwise(states, w.up, w.up_bias, "gelu", [], "none"), None


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
