"""Rows as the model gets them, for people: token by token, and what is learnt of them in words."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from luthier.core.work import Piece
from luthier.data.prepared import Prepared, Row

BEFORE = 8
"""Tokens that a piece is decoded behind, so that it has the space before it and characters of several tokens are whole."""
MOST_WORDS = 200
UNFINISHED = "\ufffd"
"""What bytes that are no whole character are decoded to."""


def pieces_of(tokenizer: Any, tokens_T: Sequence[int] | np.ndarray, learnt: Collection[int] = ()) -> list[Piece]:
    """Return tokens one by one; together they are the text, but that what goes on with a word keeps its mark, as `##ing`.

    Args:
        tokenizer: A fast tokenizer.
        tokens_T: Token ids.
        learnt: Places of the tokens that something is learnt of.
    """
    ids, known = [int(token) for token in tokens_T], frozenset(int(place) for place in learnt)
    prefix = getattr(tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None)
    if prefix:
        texts = [f" {token}" for token in tokenizer.convert_ids_to_tokens(ids)]
    else:
        texts = [_behind(tokenizer, ids[max(0, place - BEFORE) : place], ids[place]) for place in range(len(ids))]
    return [Piece(text, place in known) for place, text in enumerate(texts)]


def target_in_words(row: Row, prepared: Prepared) -> str:
    """Return what is learnt of a row as a person reads it: its labels, its number, what the task keeps of it.

    Args:
        row: An encoded row.
        prepared: Its data set, for the names of the labels.
    """
    labels, target = prepared.labels, row.target
    if prepared.multi_label:
        return ", ".join(labels[place] for place in np.flatnonzero(target)) or "no label"
    if target is not None and np.ndim(target) == 0:
        return labels[int(target)] if labels else f"{float(target):g}"
    if row.record is not None:
        return _cut(json.dumps(json.loads(row.record), ensure_ascii=False))
    values = [] if target is None else np.ravel(target).tolist()
    return _cut(", ".join(labels[int(one)] if labels and one >= 0 else f"{one:g}" for one in values))


def _behind(tokenizer: Any, before: list[int], token: int) -> str:
    """Return what a token adds to the text before it: nothing, where it is the beginning of a character."""
    first, both = (str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)) for ids in (before, [*before, token]))
    return "" if both.endswith(UNFINISHED) else both[len(first.rstrip(UNFINISHED)) :]


def _cut(words: str) -> str:
    return words if len(words) <= MOST_WORDS else f"{words[:MOST_WORDS]} …"
