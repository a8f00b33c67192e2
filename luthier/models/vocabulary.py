"""Teach a tokenizer the characters it does not know, or a model new marks, and start their embeddings from the mean."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def unknown_characters(tokenizer: Any, texts: Iterable[str]) -> list[str]:
    """Return the characters of `texts` that the tokenizer turns into its unknown token, sorted.

    Args:
        tokenizer: A fast tokenizer; one without an unknown token knows everything.
        texts: The training texts.
    """
    if tokenizer.unk_token_id is None:
        return []
    characters = sorted(set("".join(texts)))
    encoded = tokenizer.backend_tokenizer.encode_batch_fast(characters, add_special_tokens=False)
    return [character for character, encoding in zip(characters, encoded, strict=True) if tokenizer.unk_token_id in encoding.ids]


def add_characters(tokenizer: Any, characters: list[str]) -> int:
    """Add characters as tokens of their own; returns how many were new."""
    return int(tokenizer.add_tokens(characters)) if characters else 0


def grow_embeddings(model: Any, size: int) -> frozenset[str]:
    """Give the model an embedding row for each of `size` tokens; new rows start as the mean of the old ones.

    The new rows are a parameter of their own while training, so that they can learn at the rate of new layers;
    `settle_embeddings` makes one table of both.

    Returns:
        The name of the new parameter, if there is one.
    """
    from luthier.models.grown_embedding import GrownEmbedding

    old = model.get_input_embeddings()
    if size <= old.weight.shape[0]:
        return frozenset()
    grown = GrownEmbedding(old, size - old.weight.shape[0])
    model.set_input_embeddings(grown)
    return frozenset(name for name, parameter in model.named_parameters() if parameter is grown.new)


def add_rows(model: Any, size: int) -> None:
    """Give a decoder an embedding, and a place in its vocabulary head, for each of `size` tokens; new ones start as the mean of the old.

    Args:
        model: A causal model of transformers; `model.added_rows` says how many it was given.
        size: Tokens of its tokenizer.
    """
    import torch

    old = model.get_input_embeddings().weight.shape[0]
    if size <= old:
        return
    model.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        for table in (model.get_input_embeddings(), model.get_output_embeddings()):
            table.weight[old:] = table.weight[:old].mean(0)
            if getattr(table, "bias", None) is not None:
                table.bias[old:] = table.bias[:old].mean()
    model.added_rows = size - old


def settle_embeddings(model: Any) -> None:
    """Make one plain table of the word embedding, which any library can load; does nothing where it is one."""
    from luthier.models.grown_embedding import GrownEmbedding
    from luthier.models.lean.row_embedding import RowEmbedding

    grown = model.get_input_embeddings()
    if isinstance(grown, (GrownEmbedding, RowEmbedding)):
        plain = grown.settled()
        model.set_input_embeddings(plain)
        model.config.vocab_size = plain.num_embeddings
