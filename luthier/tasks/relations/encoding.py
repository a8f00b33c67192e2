"""Texts with two marked entities to tokens, and the places of the two opening markers among them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from luthier.data.encode import CHUNK, Encoded
from luthier.tasks.relations.marks import MARK, Marked, marker_tokens, shown_to_model


def add_markers(tokenizer: Any, types: set[str]) -> None:
    """Add the markers to a tokenizer, as tokens of their own."""
    from tokenizers import AddedToken

    new = [AddedToken(token, special=True, normalized=False) for token in marker_tokens(types)]
    tokenizer.add_tokens(new, special_tokens=True)


def own_markers(tokenizer: Any) -> frozenset[str]:
    """Return the markers that are tokens of their own."""
    return frozenset(token for token in tokenizer.get_added_vocab() if MARK.fullmatch(token))


def encode_marked(
    tokenizer: Any, marked: Sequence[Marked], *, words: bool, typed: bool, max_length: int
) -> tuple[Encoded, list[tuple[int, int]]]:
    """Turn texts into token ids, and find the opening markers of `e1` and `e2`.

    Of a text that is too long, what is farthest from the entities is cut.

    Args:
        tokenizer: A fast tokenizer, with the markers where these are tokens of their own.
        marked: Texts with their entities.
        words: Whether markers are signs of the vocabulary.
        typed: Whether types are in the markers.
        max_length: Longest text in tokens, special tokens included.
    """
    backend, known = tokenizer.backend_tokenizer, own_markers(tokenizer)
    backend.no_padding()
    backend.no_truncation()
    before, after = _special_tokens(backend)
    room = max_length - len(before) - len(after)
    shown = [shown_to_model(one, words=words, typed=typed, known=known) for one in marked]
    rows: list[list[int]] = []
    places: list[tuple[int, int]] = []
    too_long: list[bool] = []
    for start in range(0, len(shown), CHUNK):
        chosen = shown[start : start + CHUNK]
        encodings = backend.encode_batch([text for text, _ in chosen], add_special_tokens=False)
        for encoding, (_, starts) in zip(encodings, chosen, strict=True):
            first, second = (encoding.char_to_token(at) for at in starts)
            kept = kept_tokens(len(encoding.ids), (first, second), room)
            rows.append([*before, *(encoding.ids[place] for place in kept), *after])
            places.append((len(before) + kept.index(first), len(before) + kept.index(second)))
            too_long.append(len(kept) < len(encoding.ids))
    lengths = np.fromiter(map(len, rows), np.int32, len(rows))
    tokens = np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum()))
    return Encoded(tokens, lengths, np.ones(len(rows), np.int32), np.array(too_long, bool)), places


def kept_tokens(number: int, starts: tuple[int, int], room: int) -> list[int]:
    """Return which tokens of a text are read: all, or those nearest to the entities, in their order.

    Args:
        number: Tokens of the text.
        starts: Places of the opening markers.
        room: How many tokens can be read, at least 2.
    """
    if number <= room:
        return list(range(number))
    nearest = sorted(range(number), key=lambda place: (min(abs(place - start) for start in starts), place))
    return sorted(nearest[:room])


def _special_tokens(backend: Any) -> tuple[list[int], list[int]]:
    """Return the ids of the special tokens that a text begins and ends with."""
    encoding = backend.encode("a")
    mask = list(encoding.special_tokens_mask)
    first, last = mask.index(0), len(mask) - mask[::-1].index(0)
    return list(encoding.ids[:first]), list(encoding.ids[last:])
