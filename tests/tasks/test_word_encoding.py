"""Words as sub-words: which token each word is read at, with windows, with cut texts, with tokenizers that keep spaces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from luthier.core.errors import ConfigError
from luthier.data.prepared import Row
from luthier.models.pretrained import load_tokenizer
from luthier.tasks.tokens.encoding import NOWHERE, EncodedWords, encode_words
from luthier.tasks.tokens.places import Places
from luthier.tasks.tokens.words import words_in


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(str(tiny_model))


def encoded(tokenizer: Any, text: str, *, max_length: int = 64, stride: int | None = None) -> EncodedWords:
    return encode_words(tokenizer, [text], [words_in(text, "characters")], max_length=max_length, stride=stride)


def test_a_word_is_read_at_its_first_piece(tokenizer: Any) -> None:
    found = encoded(tokenizer, "the zzz parcel 我们")
    tokens = tokenizer.convert_ids_to_tokens(found.encoded.tokens.tolist())
    assert tokens == ["[CLS]", "the", "z", "##z", "##z", "parcel", "我", "们", "[SEP]"]
    assert found.places == [[1, 2, 5, 6, 7]] and found.pieces == [[1, 3, 1, 1, 1]]
    assert tokenizer("the zzz parcel 我们")["input_ids"] == found.encoded.tokens.tolist()


def test_words_behind_a_cut_are_counted(tokenizer: Any) -> None:
    found = encoded(tokenizer, " ".join(["the"] * 20), max_length=12)
    assert found.places == [[*range(1, 11), *[NOWHERE] * 10]]
    assert (found.num_cut, found.num_empty, found.encoded.too_long_N.tolist()) == (10, 0, [True])


def test_words_of_nothing_are_counted(tokenizer: Any) -> None:
    found = encode_words(tokenizer, ["the \u200b a"], [[(0, 3), (4, 5), (6, 7)]], max_length=64, stride=None)
    assert found.places == [[1, NOWHERE, 2]] and (found.num_cut, found.num_empty) == (0, 1)


def test_in_windows_every_word_is_read_once_and_far_from_the_edge(tokenizer: Any) -> None:
    words = [tiny.FILLERS[place % len(tiny.FILLERS)] for place in range(40)]
    found = encoded(tokenizer, " ".join(words), max_length=12, stride=4)
    tokens = tokenizer.convert_ids_to_tokens(found.encoded.tokens.tolist())
    assert [tokens[place] for place in found.places[0]] == words and found.num_cut == 0
    assert not found.encoded.too_long_N.any() and found.encoded.num_windows_N.tolist() == [6]
    starts = np.cumsum([0, *found.encoded.window_lengths[:-1]])
    window = np.searchsorted(starts, found.places[0], side="right") - 1
    inside = np.array(found.places[0]) - starts[window]
    assert inside[(window > 0)].min() >= 3, "words that two windows share are read where two others stand before them"
    with pytest.raises(ConfigError, match="would never|hold 10 of a text"):
        encoded(tokenizer, "the", max_length=12, stride=10)


def byte_level() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: index for index, token in enumerate([*letters, "Ġa", "Ġb"])}
    backend = Tokenizer(models.BPE(vocab=ids, merges=[("Ġ", "a"), ("Ġ", "b")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_tokenizers_that_keep_spaces_get_them() -> None:
    tokenizer = byte_level()
    found = encoded(tokenizer, "a b a")
    assert found.encoded.tokens.tolist() == tokenizer("a b a")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(found.encoded.tokens.tolist()) == ["a", "Ġb", "Ġa"] and found.places == [[0, 1, 2]]


def row_of(found: EncodedWords, target: list[int] | None) -> Row:
    cuts = np.cumsum(found.encoded.window_lengths)[:-1]
    record = json.dumps({"places": found.places[0], "pieces": found.pieces[0]})
    return Row(0, np.split(found.encoded.tokens, cuts), None, None if target is None else np.array(target), record)


def test_places_in_a_batch(tokenizer: Any) -> None:
    short, long = encoded(tokenizer, "the zzz"), encoded(tokenizer, "a b c d e f", max_length=6, stride=1)
    rows = [row_of(short, [1, 3]), row_of(long, [0, 1, 2, -100, 0, 0])]
    labels = ("O", "B-X", "I-X", "B-Y", "I-Y")
    found = {name: tensor.tolist() for name, tensor in Places(10, labels, all_pieces=False).of(rows).items()}
    assert found["lengths"] == [2, 6] and found["reads"][:2] == [1, 2] and found["tags"] == [1, 3, 0, 1, 2, -100, 0, 0]
    flat = np.full((4, 10), -1)
    for number, window in enumerate([window for row in rows for window in row.windows]):
        flat[number, : len(window)] = window
    read = tokenizer.convert_ids_to_tokens(flat.ravel()[found["reads"]].tolist())
    assert read == ["the", "z", "a", "b", "c", "d", "e", "f"]
    assert found["labels"] == [1, 3, 0, 1, 2, 0, 0] and len(found["learnt"]) == 7
    every = {name: tensor.tolist() for name, tensor in Places(10, labels, all_pieces=True).of(rows[:1]).items()}
    assert every["learnt"] == [1, 2, 3, 4] and every["labels"] == [1, 3, 4, 4] and every["reads"] == [1, 2]
    assert set(Places(10, labels, all_pieces=False).of([row_of(short, None)])) == {"reads", "lengths"}
