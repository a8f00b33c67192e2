"""A model that was just loaded as what the work of a task begins with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.core.work import Part, Parts

if TYPE_CHECKING:
    from luthier.models.pretrained import Loaded


def grown_parts(loaded: Loaded, tokenizer: Any) -> tuple[Parts, frozenset[str]]:
    """Return a model with as many words as its tokenizer has, and the names of its new parameters; see `Work.parts`.

    Args:
        loaded: The model.
        tokenizer: Its tokenizer, which may have been taught more.
    """
    from luthier.models.vocabulary import grow_embeddings

    return {"model": Part(loaded.model)}, loaded.new | grow_embeddings(loaded.model, len(tokenizer))
