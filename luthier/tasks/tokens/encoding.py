"""Words to sub-words: each word is read at its first piece; of a text in several windows, where it stands furthest inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from luthier.core.errors import ConfigError, Fault
from luthier.data.encode import CHUNK, Encoded

NOWHERE = -1
Spans = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class EncodedWords:
    """Token ids of N rows, and where each of their words is read.

    Args:
        encoded: The tokens; in windows no text counts as too long.
        places: Of each row, where in its tokens the first piece of each word is; -1 for a word that is cut off or has no tokens.
        pieces: Of each row, how many pieces of each word stand there.
        num_cut: Words behind the end of a text that was cut.
        num_empty: Words that the tokenizer makes nothing of, such as characters without width.
    """

    encoded: Encoded
    places: list[list[int]]
    pieces: list[list[int]]
    num_cut: int
    num_empty: int


def encode_words(tokenizer: Any, texts: Sequence[str], spans: Sequence[Spans], *, max_length: int, stride: int | None) -> EncodedWords:
    """Turn the words of texts into token ids with the tokenizer's own special tokens.

    Args:
        tokenizer: A fast tokenizer; its truncation and padding settings are replaced.
        texts: The texts.
        spans: Offsets of the words of each.
        max_length: Longest window in tokens, special tokens included.
        stride: Tokens that neighbouring windows share; None cuts long texts at the end instead.

    Raises:
        ConfigError: if windows share so much that they would never move on.
    """
    room = max_length - tokenizer.num_special_tokens_to_add(False)
    if stride is not None and stride >= room:
        what = f"got {stride}, but windows of {max_length} tokens hold {room} of a text"
        raise ConfigError([Fault("data.window_stride", what, f"such as data.window_stride={room // 4}")])
    spaced = _wants_spaces(tokenizer)
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.enable_truncation(max_length, stride=stride or 0, strategy="longest_first")
    windows: list[list[Any]] = []
    for start in range(0, len(texts), CHUNK):
        words = [_words(text, of, spaced) for text, of in zip(texts[start : start + CHUNK], spans[start : start + CHUNK], strict=True)]
        encodings = backend.encode_batch(words, is_pretokenized=True)
        windows += [[encoding, *(encoding.overflowing if stride is not None else ())] for encoding in encodings]
    cut_N = np.array([stride is None and bool(row[0].overflowing) for row in windows], bool)
    found = [_places([window.word_ids for window in row], len(of)) for row, of in zip(windows, spans, strict=True)]
    missing_N = [sum(place == NOWHERE for place in places) for places, _ in found]
    tails_N = [_tail(places) if cut else 0 for (places, _), cut in zip(found, cut_N, strict=True)]
    lengths = np.array([len(window.ids) for row in windows for window in row], np.int32)
    tokens = np.array([token for row in windows for window in row for token in window.ids], np.int32)
    encoded = Encoded(tokens, lengths, np.array([len(row) for row in windows], np.int32), cut_N)
    return EncodedWords(encoded, [one for one, _ in found], [one for _, one in found], sum(tails_N), sum(missing_N) - sum(tails_N))


def _words(text: str, spans: Spans, spaced: bool) -> list[str]:
    """Return the words of a text, each with the space before it where the tokenizer keeps that."""
    starts = [0, *(end for _, end in spans)] if spaced else [start for start, _ in spans]
    return [text[start:end] for start, (_, end) in zip(starts, spans, strict=False)]


def _wants_spaces(tokenizer: Any) -> bool:
    """Return whether words that are encoded one by one give the tokens of the whole text only with the spaces before them."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()

    def ids(given: Any, *, words: bool) -> list[int]:
        found: list[int] = backend.encode(given, is_pretokenized=words, add_special_tokens=False).ids
        return found

    whole = ids("a b a", words=False)
    return ids(["a", "b", "a"], words=True) != whole and ids(["a", " b", " a"], words=True) == whole


def _places(windows: Sequence[Sequence[int | None]], num_words: int) -> tuple[list[int], list[int]]:
    """Return where each word is read and how many pieces it has there, in the window where it is whole and furthest from an edge."""
    places, pieces, best = [NOWHERE] * num_words, [0] * num_words, [(0, 0)] * num_words
    offset = 0
    for words in windows:
        first: dict[int, int] = {}
        count: dict[int, int] = {}
        for position, word in enumerate(words):
            if word is not None:
                first.setdefault(word, position)
                count[word] = count.get(word, 0) + 1
        for word, position in first.items():
            rank = (count[word], min(position, len(words) - position - count[word]) + 1)
            if rank > best[word]:
                best[word], places[word], pieces[word] = rank, offset + position, count[word]
        offset += len(words)
    return places, pieces


def _tail(places: Sequence[int]) -> int:
    """Return how many words at the end have no place."""
    count = 0
    for place in reversed(places):
        if place != NOWHERE:
            break
        count += 1
    return count
