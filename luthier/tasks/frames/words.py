"""The words of a text, and the token that each begins with.

T tokens, N texts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from luthier.data.encode import CHUNK, Encoded

UNREAD = -1
"""Place of a word that has no token: beyond the longest window, or of characters that the tokenizer drops."""

Span = tuple[int, int]
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
PATTERNS = {"spaces": re.compile(r"\S+"), "characters": re.compile(rf"[{HAN}]|[^\s{HAN}]+")}


def words_of(text: str, how: str) -> list[Span]:
    """Return where each word of a text begins and ends, in characters.

    Args:
        text: A text.
        how: `spaces`: words stand between spaces; `characters`: every Chinese character is a word too.
    """
    return [found.span() for found in PATTERNS[how].finditer(text)]


def encode_words(
    tokenizer: Any, texts: Sequence[str], words: Sequence[Sequence[Span]], *, max_length: int
) -> tuple[Encoded, list[list[int]]]:
    """Turn texts into token ids, cut at the end, and find the first token of each word.

    Args:
        tokenizer: A fast tokenizer; its truncation and padding settings are replaced.
        texts: N texts.
        words: Where the words of each are.
        max_length: Longest text in tokens, special tokens included.

    Returns:
        The tokens, and for each text the place of each word's first token among them, or UNREAD.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.enable_truncation(max_length)
    ids: list[list[int]] = []
    places: list[list[int]] = []
    too_long: list[bool] = []
    for start in range(0, len(texts), CHUNK):
        chosen = slice(start, start + CHUNK)
        for encoding, spans in zip(backend.encode_batch(list(texts[chosen])), words[chosen], strict=True):
            ids.append(encoding.ids)
            places.append([_first_token(encoding, span) for span in spans])
            too_long.append(bool(encoding.overflowing))
    lengths = np.fromiter(map(len, ids), np.int32, len(ids))
    tokens = np.fromiter(chain.from_iterable(ids), np.int32, int(lengths.sum()))
    return Encoded(tokens, lengths, np.ones(len(ids), np.int32), np.array(too_long, bool)), places


def _first_token(encoding: Any, span: Span) -> int:
    """Return the place of the token with the first character of a word that any token has."""
    found = (encoding.char_to_token(character) for character in range(*span))
    return next((place for place in found if place is not None), UNREAD)
