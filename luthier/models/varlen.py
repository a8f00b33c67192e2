"""Attention within packed documents by torch's FlashAttention for rows of differing length: one kernel call a layer, on a GPU.

E heads, G heads of keys and values, T tokens of all documents, D documents, H width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from luthier.models.attention import UNKNOWN, register
from luthier.models.packed import NAME, packed_attention

VARLEN = f"{NAME}-varlen"  # among the attention functions of transformers
HALVES = (torch.bfloat16, torch.float16)


def attend_varlen(module: nn.Module) -> bool:
    """Let models that attend packed do so in one kernel; returns whether there is such a model.

    Args:
        module: A model, or a module that holds some.
    """
    register(VARLEN, varlen_attention)
    models: list[Any] = [model for model in module.modules() if hasattr(model, "set_attn_implementation")]
    packed = [model for model in models if model.config._attn_implementation == NAME]
    for model in packed:
        model.set_attn_implementation(VARLEN)
    return bool(packed)


def varlen_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """Attention within each document where the mask holds their lengths and the kernel can do it; else `packed_attention`.

    The kernel wants half precision and knows no dropout.

    Shape: query `(1, E, T, H)`, key and value `(1, G, T, H)` with E a multiple of G; the result is `(1, T, E, H)`.

    Reference: `torch.nn.attention.varlen.varlen_attn`, https://arxiv.org/abs/2307.08691
    """
    is_packed = attention_mask is not None and attention_mask.dtype == torch.int32
    asked = settings.get("dropout", 0.0) or any(settings.get(name) is not None for name in UNKNOWN)
    if attention_mask is None or not is_packed or asked or query.dtype not in HALVES:
        return packed_attention(module, query, key, value, attention_mask, **settings)
    from torch.nn.attention.varlen import varlen_attn

    lengths_D = attention_mask.flatten()
    starts = functional.pad(lengths_D.cumsum(0, dtype=torch.int32), (1, 0))
    longest = int(lengths_D.max())
    query_TEH, key_TGH, value_TGH = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    options: Any = {"scale": settings.get("scaling"), "window_size": (-1, 0), "enable_gqa": key.shape[1] != query.shape[1]}
    out_TEH: Any = varlen_attn(query_TEH, key_TGH, value_TGH, starts, starts, longest, longest, **options)
    return out_TEH[None], None
