"""Which attention a Hugging Face model computes with: tiles by hand where that was measured to be faster, else torch's own.

B rows, E heads, G heads of keys and values, T tokens, H width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from luthier.models.lean.tiled_attention import tiled_attention

TILED = {"sdpa": "luthier-tiled", "luthier-packed": "luthier-packed-tiled"}  # names among the attention functions of transformers
UNKNOWN = ("softcap", "position_bias", "cache", "s_aux", "sinks")  # what tiles know nothing of
SHORTEST = 16


def attend_tiled(module: nn.Module) -> bool:
    """Let models of transformers that use torch's attention, or attend packed, use tiles where they pay; returns whether one does.

    Args:
        module: A model, or a module that holds some.
    """
    register(TILED["sdpa"], chosen_attention)
    return any([_attends_tiled(model) for model in module.modules() if hasattr(model, "set_attn_implementation")])


def _attends_tiled(model: Any) -> bool:
    before = model.config._attn_implementation
    if before not in TILED:
        return False
    try:
        model.set_attn_implementation(TILED[before])
    except (ValueError, KeyError):  # the model cannot change it
        model.set_attn_implementation(before)
        return False
    return True


def register(name: str, attention: Any) -> None:
    """Add an attention function to those of transformers, with the masks of sdpa."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, sdpa_mask)


def chosen_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """Attention by tiles where `is_faster`, else that of transformers.

    Shape: query `(B, E, T, H)`, key and value `(B, G, T, H)`; the result is `(B, T, E, H)`.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    dropout = settings.get("dropout", 0.0)
    if not is_faster(query, key, value, attention_mask, dropout) or any(settings.get(name) is not None for name in UNKNOWN):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    asked = settings.get("is_causal")
    causal = attention_mask is None and (getattr(module, "is_causal", True) if asked is None else asked)
    scale = settings.get("scaling") or query.shape[-1] ** -0.5
    out = tiled_attention(query, key, value, attention_mask, scale=scale, dropout=dropout, causal=causal)
    return out.transpose(1, 2).contiguous(), None


def is_faster(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> bool:
    """Whether tiles were measured to be faster than torch's attention: on a CPU, in bfloat16 or with dropout (docs/speed.md)."""
    return (
        query.device.type == "cpu"
        and (query.dtype == torch.bfloat16 or dropout > 0)
        and query.shape[2] == key.shape[2] >= SHORTEST
        and query.shape[-1] == value.shape[-1]
        and (mask is None or (mask.ndim == 4 and mask.shape[1] == 1 and mask.shape[2:] == (query.shape[2], key.shape[2])))
    )
