"""Attention as plain matrix products, a tile of queries at a time, with its backward pass by hand.

On a CPU the fused kernel's backward pass is slow in bfloat16, and with dropout torch falls back to something slower still. A tile of
queries that sees nothing of what comes later is multiplied by the keys up to its own end only.

B rows, E heads, G heads of keys and values (E a multiple of G), R = E / G, T tokens that ask, S tokens seen, U tokens of a tile, H width of
a head, N = B * G.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from luthier.models.lean.random_bits import dropout_mask

TILE = 128


@dataclass(frozen=True)
class Setting:
    """How attention is computed.

    Args:
        scale: What scores are multiplied by.
        dropout: Probability of dropping a probability.
        causal: Whether a token sees itself and earlier ones only; needs T = S.
        heads: R, the query heads that share a head of keys.
    """

    scale: float
    dropout: float
    causal: bool
    heads: int


def tiled_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *, scale: float, dropout: float = 0.0, causal: bool = False
) -> Tensor:
    """Return what each token gathers from those it sees; its gradient can be taken once.

    Args:
        query: Queries.
        key: Keys.
        value: Values.
        mask: True where a token is seen, or what is added to the scores.
        scale: What scores are multiplied by.
        dropout: Probability of dropping a probability, 0 to below 1.
        causal: Whether a token sees itself and earlier ones only; the mask is not looked at then.

    Shape: query `(B, E, T, H)`, key and value `(B, G, S, H)`, mask `(1 or B, 1, T, S)`; the result is `(B, E, T, H)`.

    Reference: https://arxiv.org/abs/2112.05682 (queries in tiles), https://arxiv.org/abs/2205.14135 (the row sum of the backward pass)
    """
    B, E, T, H = query.shape
    G, S = key.shape[1:3]
    setting = Setting(scale, dropout, causal, E // G)
    grouped = query.reshape(B * G, E // G, T, H)
    out: Tensor = TiledAttention.apply(grouped, key.reshape(B * G, S, H), value.reshape(B * G, S, H), mask, setting)
    return out.view(B, E, T, H)


class TiledAttention(torch.autograd.Function):
    """Forward and backward by hand; arguments as in `tiled_attention`, with heads folded into rows."""

    @staticmethod
    def forward(ctx: Any, query_NRTH: Tensor, key_NSH: Tensor, value_NSH: Tensor, mask: Tensor | None, setting: Setting) -> Tensor:
        """Return `(N, R, T, H)`."""
        scaled_NRTH, out_NRTH = query_NRTH * setting.scale, torch.empty_like(query_NRTH)
        keep = any(ctx.needs_input_grad[:3])
        tiles = []
        for start in range(0, query_NRTH.shape[2], TILE):
            span, seen = _spans(start, query_NRTH, key_NSH, setting)
            probs_NMS = _probabilities(scaled_NRTH[:, :, span], key_NSH[:, :seen], mask, span, setting)
            kept_NMS = dropout_mask(tuple(probs_NMS.shape), setting.dropout, probs_NMS.dtype, probs_NMS.device) if setting.dropout else None
            gathered_NMH = torch.bmm(probs_NMS if kept_NMS is None else probs_NMS * kept_NMS, value_NSH[:, :seen])
            out_NRTH[:, :, span] = gathered_NMH.view(out_NRTH[:, :, span].shape)
            if keep:
                tiles += [probs_NMS, kept_NMS]
        ctx.save_for_backward(scaled_NRTH, key_NSH, value_NSH, out_NRTH, *tiles)
        ctx.setting = setting
        return out_NRTH

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_NRTH: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of queries, keys and values."""
        scaled_NRTH, key_NSH, value_NSH, out_NRTH, *tiles = ctx.saved_tensors
        setting, H = ctx.setting, key_NSH.shape[2]
        g_query_NRTH, g_key_NSH, g_value_NSH = torch.empty_like(scaled_NRTH), torch.zeros_like(key_NSH), torch.zeros_like(value_NSH)
        row_sum_NRT1 = (grad_NRTH * out_NRTH).sum(-1, keepdim=True)
        for start, probs_NMS, kept_NMS in zip(range(0, scaled_NRTH.shape[2], TILE), tiles[::2], tiles[1::2], strict=True):
            span, seen = _spans(start, scaled_NRTH, key_NSH, setting)
            grad_NMH = grad_NRTH[:, :, span].reshape(len(key_NSH), -1, H)
            g_scores_NMS = torch.bmm(grad_NMH, value_NSH[:, :seen].transpose(1, 2))
            if kept_NMS is not None:
                g_scores_NMS.mul_(kept_NMS)
            g_scores_NMS.sub_(row_sum_NRT1[:, :, span].reshape(len(key_NSH), -1, 1)).mul_(probs_NMS)
            g_query_NRTH[:, :, span] = torch.bmm(g_scores_NMS, key_NSH[:, :seen]).view(g_query_NRTH[:, :, span].shape)
            g_key_NSH[:, :seen] += torch.bmm(g_scores_NMS.transpose(1, 2), scaled_NRTH[:, :, span].reshape(len(key_NSH), -1, H))
            dropped_NMS = probs_NMS if kept_NMS is None else probs_NMS * kept_NMS
            g_value_NSH[:, :seen] += torch.bmm(dropped_NMS.transpose(1, 2), grad_NMH)
        return g_query_NRTH.mul_(setting.scale), g_key_NSH, g_value_NSH, None, None


def _spans(start: int, query_NRTH: Tensor, key_NSH: Tensor, setting: Setting) -> tuple[slice, int]:
    """Return which tokens of the tile ask, and how many are seen."""
    stop = min(start + TILE, query_NRTH.shape[2])
    return slice(start, stop), stop if setting.causal else key_NSH.shape[1]


def _probabilities(query_NRUH: Tensor, key_NSH: Tensor, mask: Tensor | None, span: slice, setting: Setting) -> Tensor:
    """Return the probabilities of a tile, `(N, R * U, S)`."""
    N, R, U, H = query_NRUH.shape
    scores_NMS = torch.bmm(query_NRUH.reshape(N, R * U, H), key_NSH.transpose(1, 2))
    scores_NRUS = scores_NMS.view(N, R, U, -1)
    if setting.causal:
        scores_NRUS[..., span] += torch.full((U, U), -torch.inf, dtype=scores_NMS.dtype, device=scores_NMS.device).triu_(1)
    elif mask is not None:
        rows, tile = mask.shape[0], mask[:, :, span]
        scores = scores_NMS.view(rows, -1, R, U, scores_NMS.shape[2])
        if mask.dtype == torch.bool:
            scores.masked_fill_(~tile[:, :, None], torch.finfo(scores.dtype).min)
        else:
            scores += tile[:, :, None]
    return scores_NMS.softmax(-1)
