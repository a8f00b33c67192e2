"""Which matrices stand at the edge of a model: what tokens become on the way in, and what states become on the way out."""

from __future__ import annotations

from typing import Any

from torch import nn

from luthier.core.work import Parts
from luthier.models.lean.row_embedding import RowEmbedding


def outer_parameters(parts: Parts, new: frozenset[str]) -> frozenset[int]:
    """Return the `id` of each parameter of an embedding, of the head, and of what started from nothing.

    Args:
        parts: Named modules.
        new: Names of the parameters that started from nothing.
    """
    found: set[int] = set()
    for part in parts.values():
        module: Any = part.module
        tables: list[nn.Module] = [m for m in module.modules() if isinstance(m, nn.Embedding | RowEmbedding)]
        output = module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
        tables += [] if output is None else [output]
        found |= {id(parameter) for table in tables for parameter in table.parameters()}
        named = list(module.named_parameters())
        body = f"{getattr(module, 'base_model_prefix', '')}."
        has_body = any(name.startswith(body) for name, _ in named)
        found |= {id(parameter) for name, parameter in named if name in new or (has_body and not name.startswith(body))}
    return frozenset(found)
