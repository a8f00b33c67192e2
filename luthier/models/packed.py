"""Several documents in one forward pass of a causal model, with nothing leaking from one to another.

Flat layout: the tokens of all documents one after another in one row, without padding. Every linear layer and norm sees real tokens only;
attention is computed for each document by itself. Square layout: one row for each pack, padded, with a mask.

B rows (packs, or 1 where flat), T tokens of a row, D documents, E heads, H width of a head.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from luthier.models.attention import TILED, chosen_attention, is_faster, register
from luthier.models.lean.tiled_attention import tiled_attention

log = logging.getLogger("luthier")
NAME = "luthier-packed"  # of the attention function among those of transformers
IGNORED = -100
MOST_UNLIKE = 0.7  # the shortest of documents that are padded together, as a share of the longest
Layout = Literal["flat", "square"]
Documents = Sequence[Sequence[np.ndarray]]  # packs of documents


@dataclass(frozen=True)
class Packed:
    """Documents laid out for a model.

    Args:
        inputs: What the model is called with.
        document_BT: Number of the document that each token is of, counted through all packs; -1 is padding.
    """

    inputs: dict[str, Tensor]
    document_BT: Tensor


def packed_inputs(documents: Documents, *, layout: Layout = "flat", pad_id: int = 0, additive: bool = False) -> Packed:
    """Return packs of documents as a causal model takes them.

    Args:
        documents: Packs of token ids, none empty.
        layout: flat needs `attend_packed(model)`; square works with the attention of transformers, eager or sdpa.
        pad_id: Token of padding.
        additive: For square: a mask of 0 and the lowest float32, as eager attention wants it.

    Shape: `input_ids`, `position_ids` `(B, T)`; `attention_mask` `(1, 1, 1, D)` int32 lengths where flat, `(B, 1, T, T)` where square.
    """
    lengths = [[len(document) for document in pack] for pack in documents]
    numbers = np.split(np.arange(sum(map(len, lengths))), np.cumsum([len(pack) for pack in lengths])[:-1])
    document_BT = laid_out([[np.full(n, i) for n, i in zip(*pair, strict=True)] for pair in zip(lengths, numbers, strict=True)], layout, -1)
    positions = [[np.arange(length) for length in pack] for pack in lengths]
    inputs = {"input_ids": laid_out(documents, layout, pad_id), "position_ids": laid_out(positions, layout, 0)}
    if layout == "flat":
        inputs["attention_mask"] = torch.tensor([n for pack in lengths for n in pack], dtype=torch.int32)[None, None, None]
    else:
        inputs["attention_mask"] = _square_mask(document_BT, additive)
    return Packed(inputs, document_BT)


def packed_labels(labels: Documents, *, layout: Layout = "flat") -> Tensor:
    """Return labels in the layout of `packed_inputs`, unshifted; no document is asked for its first token, which nothing before predicts.

    Args:
        labels: Packs of token ids, -100 where a token is not learned.
        layout: As in `packed_inputs`.
    """
    asked = [[np.concatenate([[IGNORED], document[1:]]) for document in pack] for pack in labels]
    return laid_out(asked, layout, IGNORED)


def laid_out(values: Documents, layout: Layout, fill: int) -> Tensor:
    """Return one value for each token of packed documents, `(B, T)`.

    Args:
        values: Packs of arrays, one array for each document.
        layout: flat or square.
        fill: Value of padding.
    """
    rows = [np.concatenate(pack) for pack in values]
    if layout == "flat":
        rows = [np.concatenate(rows)]
    out_BT = np.full((len(rows), max(map(len, rows))), fill, np.int64)
    for row, line in zip(rows, out_BT, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(out_BT)


def attend_packed(model: Any) -> None:
    """Let a Hugging Face model attend within each document of flat inputs; other inputs go through sdpa as before."""
    register(NAME, packed_attention)
    register(TILED[NAME], partial(packed_attention, tiled=True))
    model.set_attn_implementation(NAME)


def packed_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *, tiled: bool = False, **settings: Any
) -> tuple[Tensor, None]:
    """Attention within each document where the mask holds their lengths; else that of transformers, or by tiles where they pay.

    Shape: query `(1, E, T, H)`, key and value `(1, G, T, H)` with E a multiple of G; the result is `(1, T, E, H)`.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if attention_mask is None or attention_mask.dtype != torch.int32:
        return (chosen_attention if tiled else sdpa_attention_forward)(module, query, key, value, attention_mask, **settings)
    lengths = attention_mask.flatten().tolist()
    if tiled and is_faster(query, key, value, None, settings.get("dropout", 0.0)):
        return _by_length(query, key, value, lengths, settings), None
    dtype = query.dtype
    if query.device.type == "cpu":  # the backward pass of the fused kernel takes three times as long in bfloat16
        query, key, value = query.float(), key.float(), value.float()
    parts = zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    options = {"dropout_p": settings.get("dropout", 0.0), "scale": settings.get("scaling"), "enable_gqa": key.shape[1] != query.shape[1]}
    outs = [functional.scaled_dot_product_attention(*part, is_causal=True, **options) for part in parts]
    return torch.cat([out.transpose(1, 2) for out in outs], 1).to(dtype), None


def _by_length(query: Tensor, key: Tensor, value: Tensor, lengths: list[int], settings: dict[str, Any]) -> Tensor:
    """Attention of documents of like length at a time, padded at the right, where a causal token does not look.

    Shape: query `(1, E, T, H)`, key and value `(1, G, T, H)`; the result is `(1, T, E, H)`.
    """
    scale, dropout = settings.get("scaling") or query.shape[-1] ** -0.5, settings.get("dropout", 0.0)
    groups, back_T = alike(tuple(lengths), query.device)
    outs = []
    for group in groups:
        parts = [_Gathered.apply(tensor[0].transpose(0, 1), group) for tensor in (query, key, value)]
        out_DEUH = tiled_attention(*parts, scale=scale, dropout=dropout, causal=True)
        outs.append(out_DEUH.transpose(1, 2).flatten(0, 1).index_select(0, group.real_K))
    return (outs[0] if len(outs) == 1 else torch.cat(outs)).index_select(0, back_T)[None]


@dataclass(frozen=True)
class Alike:
    """Documents of like length.

    Args:
        place_DU: Where their tokens are in the row; padding repeats a document's first.
        real_K: Which places of `place_DU`, laid end to end, are no padding.
        rows_K: Where in the row those are.
    """

    place_DU: Tensor
    real_K: Tensor
    rows_K: Tensor


@lru_cache(maxsize=4)  # every layer asks for the same
def alike(lengths: tuple[int, ...], device: torch.device) -> tuple[list[Alike], Tensor]:
    """Return groups of documents of like length, and where the tokens of all groups, end to end, are found in the order of the row.

    Args:
        lengths: Tokens of each document, as they follow one another.
        device: Where the places are wanted.
    """
    starts = np.cumsum(lengths) - lengths
    order = np.argsort(lengths, kind="stable")[::-1]
    members: list[list[int]] = []
    for number in order.tolist():
        if not members or lengths[number] < MOST_UNLIKE * lengths[members[-1][0]]:
            members.append([])
        members[-1].append(number)
    groups = []
    for group in members:
        place_DU = torch.arange(lengths[group[0]])[None].repeat(len(group), 1)
        real_DU = place_DU < torch.tensor([lengths[number] for number in group])[:, None]
        place_DU = place_DU * real_DU + torch.from_numpy(starts[group])[:, None]
        found = (place_DU, real_DU.flatten().nonzero().squeeze(1), place_DU[real_DU])
        groups.append(Alike(*(each.to(device) for each in found)))
    return groups, torch.cat([group.rows_K for group in groups]).argsort()


class _Gathered(torch.autograd.Function):
    """Documents out of a row, `(D, heads, U, H)` from `(T, heads, H)`; padding, which nothing looks at, gives no gradient."""

    @staticmethod
    def forward(ctx: Any, row_TEH: Tensor, group: Alike) -> Tensor:
        ctx.group, ctx.shape = group, row_TEH.shape
        D, U = group.place_DU.shape
        return row_TEH.index_select(0, group.place_DU.flatten()).view(D, U, *row_TEH.shape[1:]).transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        real = grads[0].transpose(1, 2).flatten(0, 1).index_select(0, ctx.group.real_K)
        return real.new_zeros(ctx.shape).index_copy_(0, ctx.group.rows_K, real), None


@torch.no_grad()
def leak(model: Any, layout: Layout) -> float:
    """Return the largest difference between logits of two packed documents and of each alone, relative to the largest logit.

    Args:
        model: A causal model; for flat it must attend packed.
        layout: flat or square.
    """
    words, device, was_training = model.config.get_text_config().vocab_size, model.device, model.training
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, words, 11), rng.integers(0, words, 7)]
    packed = packed_inputs([documents], layout=layout, additive=model.config._attn_implementation == "eager")
    model.eval()
    try:
        found_BTV = model(**{name: tensor.to(device) for name, tensor in packed.inputs.items()}, use_cache=False).logits.float()
        alone = [model(input_ids=torch.from_numpy(each)[None].to(device), use_cache=False).logits[0].float() for each in documents]
    finally:
        model.train(was_training)
    difference = (found_BTV[0, : sum(map(len, documents))] - torch.cat(alone)).abs().max()
    return float(difference / torch.cat(alone).abs().max().clamp(min=1e-6))


def choose_layout(model: Any, *, tolerance: float = 1e-5) -> Layout | None:
    """Set up the first layout through which documents stay apart: flat, then square; none where both mix them.

    Models whose layers carry a state along the sequence (recurrent, convolutional), or that take no position ids, mix documents.

    Args:
        model: A Hugging Face causal model, in the precision of its weights.
        tolerance: Largest difference that counts as none, relative to the largest logit.
    """
    before = model.config._attn_implementation
    layouts: tuple[Layout, ...] = ("flat", "square")
    for layout in layouts:
        try:
            if layout == "flat":
                attend_packed(model)
            if leak(model, layout) <= tolerance:
                return layout
        except (TypeError, ValueError, RuntimeError, IndexError, KeyError) as error:  # it does not take such inputs
            log.debug("%s does not take %s packs: %s", type(model).__name__, layout, error)
        model.set_attn_implementation(before)
    return None


def _square_mask(document_BT: Tensor, additive: bool) -> Tensor:
    """Return which tokens see which: earlier ones of the same document, and themselves."""
    same_BTT = document_BT[:, :, None] == document_BT[:, None, :]
    seen_BTT = same_BTT & torch.ones(same_BTT.shape[1:], dtype=torch.bool).tril()
    if not additive:
        return seen_BTT[:, None]
    return torch.where(seen_BTT[:, None], 0.0, torch.finfo(torch.float32).min)


def keeps_apart(model: Any, longest: int, *, tolerance: float = 1e-4) -> bool:
    """Whether packed documents of up to `longest` tokens do not see each other in a model that attends packed.

    Models that carry a state along the sequence mix them; one whose window is shorter than a document is not packed either,
    because packed attention knows no windows.

    Args:
        model: A causal model that attends packed.
        longest: Tokens of the longest document.
        tolerance: Largest difference that counts as none, relative to the largest logit.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if window is not None and window < longest:
        return False
    try:
        return leak(model, "flat") <= tolerance
    except (TypeError, ValueError, RuntimeError, IndexError, KeyError) as error:
        log.debug("%s does not take packs: %s", type(model).__name__, error)
        return False
