"""Which tokens make a word: read once from the vocabulary, so that rows of token ids can be worked on word by word.

T tokens, W words, V tokens of the vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")
BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # how SentencePiece writes a byte of a character that it does not know
CHINESE_BYTES = "äåæçèé"  # how byte-level tokenizers write E4 to E9, the first byte of a Chinese character
BLANKS = "ĠĊĉč \n\t\r"  # how byte-level tokenizers write space, line feed, tab and carriage return
METASPACE = "▁"
Marking = Callable[[str], tuple[bool, bool]]


@dataclass(frozen=True)
class Text:
    """One text as tokens, and where its words begin.

    Args:
        tokens_T: Token ids of the text alone, without special tokens.
        edges: Where each word begins, and the end of the text: W + 1 positions from 0 to T.
        leans: Whether the first word would melt into another that stood before it: it may be left out, but has to stay first.
    """

    tokens_T: np.ndarray
    edges: np.ndarray
    leans: bool = False

    @classmethod
    def of(cls, words: Sequence[Sequence[int]], *, leans: bool = False) -> Text:
        """Return the text of some words, each the ids of its tokens."""
        tokens = [token for word in words for token in word]
        return cls(np.array(tokens, np.int32), np.cumsum([0, *map(len, words)]), leans)

    @property
    def num_words(self) -> int:
        """How many words the text has."""
        return len(self.edges) - 1

    @property
    def words(self) -> list[tuple[int, ...]]:
        """The words, each the ids of its tokens."""
        return [tuple(word.tolist()) for word in np.split(self.tokens_T, self.edges[1:-1])]

    def take(self, order_W: np.ndarray) -> Text:
        """Return the text of some of its words, in the order given by their numbers."""
        begins_W = self.edges.take(order_W)
        lengths_W = self.edges.take(order_W + 1) - begins_W
        edges = np.zeros(len(order_W) + 1, np.int64)
        lengths_W.cumsum(out=edges[1:])
        places_T = (begins_W - edges[:-1]).repeat(lengths_W) + np.arange(edges[-1])
        return Text(self.tokens_T.take(places_T), edges, bool(self.leans and order_W[0] == 0))


@dataclass(frozen=True)
class WordMarks:
    """What each token of a vocabulary says about words.

    Args:
        begins_V: Whether the token begins a word.
        open_V: Whether the word goes on with the next token, whatever that says.
        special_V: Whether the token belongs to no text ([CLS], [SEP], padding); the unknown token stands for a word.
    """

    begins_V: np.ndarray
    open_V: np.ndarray
    special_V: np.ndarray

    @classmethod
    def of(cls, tokenizer: Any) -> WordMarks:
        """Return the marks of a fast tokenizer's vocabulary.

        WordPiece and BPE with a prefix mark what goes on (`##ing`), BPE with a suffix what ends (`ing</w>`), byte-level BPE (`Ġthe`)
        and SentencePiece (`▁the`) what begins; the last two do so for a Chinese character too. Without marks each token is a word.
        """
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        size = max(vocabulary.values(), default=-1) + 1
        begins_V, open_V, special_V = np.ones(size, bool), np.zeros(size, bool), np.zeros(size, bool)
        marking = _marking(tokenizer, vocabulary)
        for token, index in vocabulary.items():
            begins_V[index], open_V[index] = marking(token)
        special_V[_special_ids(tokenizer)] = True
        return cls(begins_V, open_V, special_V)

    def texts(self, tokens_T: np.ndarray, types_T: np.ndarray | None) -> list[tuple[int, Text]]:
        """Return the texts of a row, each with its place: what stands between special tokens and has one type."""
        special_T = self.special_V.take(tokens_T)
        cuts = special_T.nonzero()[0].tolist()
        if types_T is not None:
            cuts = sorted({*cuts, *((types_T[1:] != types_T[:-1]).nonzero()[0] + 1).tolist()})
        found, begin = [], 0
        for cut in [*cuts, len(tokens_T)]:
            if cut > begin:
                found.append((begin, self._text(tokens_T[begin:cut])))
            begin = cut + 1 if cut < len(tokens_T) and special_T[cut] else cut
        return found

    def _text(self, tokens_T: np.ndarray) -> Text:
        """Return the words of a text; a last word that is not ended is left out of it, where there are others."""
        begins_T, open_T = self.begins_V.take(tokens_T), self.open_V.take(tokens_T)
        leans = not begins_T[0]
        begins_T[0] = True
        begins_T[1:] &= ~open_T[:-1]
        starts_W = begins_T.nonzero()[0]
        if open_T[-1] and len(starts_W) > 1:
            return Text(tokens_T[: starts_W[-1]], starts_W, leans)
        edges = np.empty(len(starts_W) + 1, np.int64)
        edges[:-1], edges[-1] = starts_W, len(tokens_T)
        return Text(tokens_T, edges, leans)


def _marking(tokenizer: Any, vocabulary: dict[str, int]) -> Marking:
    """Return what tells, for the kind of tokenizer, whether a token begins a word and whether it leaves it open."""
    backend = tokenizer.backend_tokenizer
    prefix = getattr(backend.model, "continuing_subword_prefix", None)
    suffix = getattr(backend.model, "end_of_word_suffix", None)
    added = frozenset(token.content for token in backend.get_added_tokens_decoder().values())
    if prefix:
        return lambda token: (not token.startswith(prefix) or _is_chinese(token[len(prefix) :]), False)
    if suffix:
        return lambda token: (True, not token.endswith(suffix) and token not in added)
    if "ByteLevel" in repr(backend.pre_tokenizer):
        return _byte_level
    if any(token.startswith(METASPACE) for token in vocabulary):
        return _sentencepiece
    return lambda token: (True, False)


def _byte_level(token: str) -> tuple[bool, bool]:
    begins = token[:1] in BLANKS or token[:1] in CHINESE_BYTES or _is_chinese(token)
    return begins, not token.strip(BLANKS)


def _sentencepiece(token: str) -> tuple[bool, bool]:
    byte = BYTE.fullmatch(token)
    if byte:
        character = chr(int(byte[1], 16))
        return character in BLANKS or character in CHINESE_BYTES, character in BLANKS
    return token.startswith(METASPACE) or _is_chinese(token), not token.strip(METASPACE)


def _is_chinese(token: str) -> bool:
    return CHINESE.match(token) is not None


def _special_ids(tokenizer: Any) -> list[int]:
    """Return the ids that stand for no text; an unknown token with no other office stands for a word."""
    marked = [index for index, token in tokenizer.added_tokens_decoder.items() if token.special]
    found = {*tokenizer.all_special_ids, *marked}
    offices = [token for office, token in tokenizer.special_tokens_map.items() if office != "unk_token"]
    if tokenizer.unk_token_id is not None and tokenizer.unk_token not in offices:
        found.discard(tokenizer.unk_token_id)
    return sorted(found)
