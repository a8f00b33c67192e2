"""Teach a tokenizer the characters it does not know, and start their embeddings from the mean."""

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
    characters = sorted(set().union(*map(set, texts)))
    encoded = tokenizer.backend_tokenizer.encode_batch_fast(characters, add_special_tokens=False)
    return [character for character, encoding in zip(characters, encoded, strict=True) if tokenizer.unk_token_id in encoding.ids]


def add_characters(tokenizer: Any, characters: list[str]) -> int:
    """Add characters as tokens of their own; returns how many were new."""
    return int(tokenizer.add_tokens(characters)) if characters else 0


def resize_embeddings(model: Any, size: int) -> int:
    """Give the model an embedding row for each of `size` tokens; new rows start as the mean of the old ones.

    Returns:
        The number of new rows.
    """
    import torch

    old = model.get_input_embeddings().weight.shape[0]
    if size <= old:
        return 0
    mean = model.get_input_embeddings().weight.detach().mean(dim=0)
    model.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[old:] = mean
    return int(size - old)
