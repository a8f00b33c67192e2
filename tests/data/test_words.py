"""Words are found in token ids as a person would find them in the text, with every kind of tokenizer."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from data.made_tokenizers import KINDS, finished
from luthier.data.words import Text, WordMarks

every_kind = pytest.mark.parametrize("kind", KINDS)
TWO_BYTES_AND_FOUR = "é🙂"


@cache
def made(kind: str) -> tuple[Any, WordMarks]:
    tokenizer = KINDS[kind]()
    return tokenizer, WordMarks.of(tokenizer)


def ids_of(tokenizer: Any, text: str, pair: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    encoded = tokenizer(text, pair, return_token_type_ids=True)
    return np.array(encoded["input_ids"], np.int32), np.array(encoded["token_type_ids"], np.int8)


def words_of(kind: str, text: str) -> list[str]:
    """The words found in one text, decoded."""
    tokenizer, marks = made(kind)
    texts = marks.texts(ids_of(tokenizer, text)[0], None)
    assert len(texts) <= 1
    return [tokenizer.decode(word).replace(" ##", "").strip() for _, text in texts for word in text.words]


@every_kind
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_words_are_what_stands_between_blanks(kind: str, data: st.DataObject) -> None:
    letters = "abelsxyz" if kind == "wordpiece" else "abelsxyz" + TWO_BYTES_AND_FOUR
    words = data.draw(
        st.lists(st.one_of(st.sampled_from(["my", "parcel", "the"]), st.text(letters, min_size=1, max_size=6)), min_size=1, max_size=8)
    )
    blanks = st.sampled_from(["", " ", "  "])
    text = data.draw(blanks) + " ".join(word + data.draw(blanks) for word in words)
    assert words_of(kind, text) == text.split()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("wordpiece", ["我", "love", "你", "们", "ok"]),
        ("byte-level", ["我love", "你", "们", "ok"]),
        ("sentencepiece", ["我love", "你", "们", "ok"]),
        ("byte-fallback", ["我love", "你", "们", "ok"]),
    ],
)
def test_a_chinese_character_begins_a_word(kind: str, words: list[str]) -> None:
    assert words_of(kind, "我love你们 ok") == words


def test_a_piece_of_several_chinese_characters_is_not_torn() -> None:
    assert words_of("sentencepiece", "我们是你") == ["我们", "是", "你"]


@pytest.mark.parametrize("kind", ["byte-level", "byte-fallback"])
def test_no_character_is_torn_into_bytes(kind: str) -> None:
    """Every Chinese character of the common block: none of its bytes begins a word but the first."""
    text = "".join(map(chr, range(0x4E00, 0x9FFF, 7)))
    assert words_of(kind, text) == list(text)


@every_kind
def test_special_tokens_are_no_words_and_the_unknown_token_is_one(kind: str) -> None:
    tokenizer, marks = made(kind)
    special = {tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id}
    assert special <= set(np.flatnonzero(marks.special_V)) and not marks.special_V[tokenizer.unk_token_id]
    (place, text), *rest = marks.texts(ids_of(tokenizer, "my parcel")[0], None)
    assert place == 1 and text.num_words == 2 and not rest


def test_an_unknown_token_that_also_ends_texts_is_special() -> None:
    """GPT-2 has one token for everything."""
    backend = Tokenizer(models.BPE({"<|endoftext|>": 0, "a": 1}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    everything = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=everything, eos_token=everything, bos_token=everything)
    assert WordMarks.of(tokenizer).special_V.tolist() == [True, False]


def test_a_special_token_written_in_the_text_parts_it() -> None:
    tokenizer, marks = made("wordpiece")
    tokens_T, _ = ids_of(tokenizer, "my parcels [SEP] late now")
    assert [(place, text.num_words) for place, text in marks.texts(tokens_T, None)] == [(1, 2), (5, 2)]


@every_kind
def test_the_texts_of_a_pair_are_apart(kind: str) -> None:
    tokenizer, marks = made(kind)
    tokens_T, types_T = ids_of(tokenizer, "my parcel", "the late one")
    texts = marks.texts(tokens_T, types_T)
    assert [text.num_words for _, text in texts] == [2, 3]
    for place, text in texts:
        assert np.array_equal(tokens_T[place : place + len(text.tokens_T)], text.tokens_T)
        assert len(set(types_T[place : place + len(text.tokens_T)].tolist())) == 1


def test_types_alone_tell_a_pair_apart() -> None:
    tokenizer, marks = made("sentencepiece")
    tokens_T, types_T = ids_of(tokenizer, "my", "parcel")
    assert len(marks.texts(tokens_T, types_T)) == 2 and len(marks.texts(tokens_T, None)) == 1


def test_a_first_word_without_a_mark_leans() -> None:
    byte_level, wordpiece = made("byte-level"), made("wordpiece")
    assert byte_level[1].texts(ids_of(byte_level[0], "my parcel")[0], None)[0][1].leans
    assert not byte_level[1].texts(ids_of(byte_level[0], " my parcel")[0], None)[0][1].leans
    tokens_T, _ = ids_of(wordpiece[0], "parcels late")
    assert not wordpiece[1].texts(tokens_T, None)[0][1].leans
    assert wordpiece[1].texts(np.delete(tokens_T, 1), None)[0][1].leans, "a window that begins in the middle of a word"


def test_a_last_word_that_is_not_ended_stays_outside() -> None:
    tokenizer, marks = made("suffixed")
    tokens_T, _ = ids_of(tokenizer, "my parcels")
    cut_T = np.delete(tokens_T, -2)
    assert [text.words for _, text in marks.texts(cut_T, None)] == [[(int(tokens_T[1]),)]]
    assert marks.texts(tokens_T, None)[0][1].num_words == 2


def test_without_marks_each_token_is_a_word() -> None:
    backend = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "<s>": 2, "</s>": 3, "my": 4, "parcel": 5}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = finished(backend, pair="<s> $A </s> $B </s>")
    (_, text), *_ = WordMarks.of(tokenizer).texts(ids_of(tokenizer, "my parcel my")[0], None)
    assert text.words == [(4,), (5,), (4,)]


def test_an_empty_text_has_no_words() -> None:
    tokenizer, marks = made("wordpiece")
    assert marks.texts(ids_of(tokenizer, "")[0], None) == []
    assert marks.texts(np.zeros(0, np.int32), None) == []


def test_taking_words_by_hand() -> None:
    text = Text.of([[1], [2, 3], [4]], leans=True)
    assert text.take(np.array([0, 2, 1])).words == [(1,), (4,), (2, 3)] and text.take(np.array([0, 2])).leans
    left = text.take(np.array([1, 2]))
    assert left.words == [(2, 3), (4,)] and not left.leans and left.tokens_T.dtype == np.int32


@pytest.mark.real
def test_words_of_a_published_llama_tokenizer(real_data: Path) -> None:
    backend = Tokenizer.from_file(str(real_data / "checkpoints" / "stories260K" / "tokenizer.json"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    text = "Once upon a time, there was  a little girl who didn't say 我们"
    (_, found), *rest = WordMarks.of(tokenizer).texts(np.array(tokenizer(text)["input_ids"], np.int32), None)
    assert [tokenizer.decode(word).strip() for word in found.words] == [*text.split()[:-1], "我", "们"] and not rest
