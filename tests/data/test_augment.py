"""Word dropout and word swap on rows of real tokenizers, and what a recipe may say of them."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.made_tokenizers import KINDS
from luthier.cli.arguments import split_changes
from luthier.core.config import validate
from luthier.core.errors import ConfigError
from luthier.data.augment.augmentation import Augmentation, Augmenter
from luthier.data.augment.word_dropout import WordDropout
from luthier.data.augment.word_swap import WordSwap
from luthier.data.prepared import Row
from luthier.data.words import Text, WordMarks
from luthier.recipe import resolve

every_kind = pytest.mark.parametrize("kind", KINDS)
WORDS = ["my", "parcel", "parcels", "the", "late", "we", "你", "我你", "a", "ok"]
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=14).map(" ".join)
keys = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 10**9))
probabilities = st.sampled_from([0.1, 0.5, 0.99])


@cache
def made(kind: str) -> tuple[Any, WordMarks]:
    tokenizer = KINDS[kind]()
    return tokenizer, WordMarks.of(tokenizer)


def row_of(kind: str, text: str, pair: str | None = None, *, id: int = 0) -> Row:
    encoded = made(kind)[0](text, pair, return_token_type_ids=True)
    types = [np.array(encoded["token_type_ids"], np.int8)] if pair is not None else None
    return Row(id, [np.array(encoded["input_ids"], np.int32)], types, target=1)


def words_of(kind: str, row: Row) -> list[list[tuple[int, ...]]]:
    """The words of each text of a row, found again in its tokens."""
    found = made(kind)[1].texts(row.windows[0], row.type_ids[0] if row.type_ids else None)
    return [text.words for _, text in found]


def augmented(kind: str, row: Row, key: tuple[int, int, int], *augmentations: Augmentation) -> Row:
    return Augmenter(augmentations, made(kind)[1])(row, np.random.default_rng(key))


def special_of(kind: str, row: Row) -> list[int]:
    special_V = made(kind)[1].special_V
    return [token for token in row.windows[0].tolist() if special_V[token]]


def is_subsequence(some: list[Any], every: list[Any]) -> bool:
    rest = iter(every)
    return all(word in rest for word in some)


# ---- what they do


@every_kind
@settings(max_examples=60, deadline=None)
@given(text=texts, pair=st.none() | texts, key=keys, probability=probabilities)
def test_dropout_leaves_whole_words_out_and_never_all(kind: str, text: str, pair: str | None, key: Any, probability: float) -> None:
    row = row_of(kind, text, pair)
    new = augmented(kind, row, key, WordDropout(probability=probability))
    old_texts, new_texts = words_of(kind, row), words_of(kind, new)
    assert len(new_texts) == len(old_texts) and all(new_texts)
    assert all(is_subsequence(some, every) for some, every in zip(new_texts, old_texts, strict=True))
    assert special_of(kind, new) == special_of(kind, row)


@every_kind
@settings(max_examples=60, deadline=None)
@given(text=texts, pair=st.none() | texts, key=keys, probability=probabilities)
def test_swap_keeps_the_words_and_moves_none_by_more_than_a_place(
    kind: str, text: str, pair: str | None, key: Any, probability: float
) -> None:
    row = row_of(kind, text, pair)
    new = augmented(kind, row, key, WordSwap(probability=probability))
    for some, every in zip(words_of(kind, new), words_of(kind, row), strict=True):
        assert Counter(some) == Counter(every)
        places = range(len(every))
        assert all(some[place] in every[max(place - 1, 0) : place + 2] for place in places)
    assert special_of(kind, new) == special_of(kind, row)
    assert len(new.windows[0]) == len(row.windows[0])
    assert row.type_ids is None or np.array_equal(new.type_ids[0], row.type_ids[0])  # type: ignore[index]


@every_kind
@settings(max_examples=30, deadline=None)
@given(text=texts, pair=texts, key=keys)
def test_both_in_a_row_keep_types_with_their_texts(kind: str, text: str, pair: str, key: Any) -> None:
    row = row_of(kind, text, pair)
    new = augmented(kind, row, key, WordSwap(probability=0.5), WordDropout(probability=0.5))
    assert new.type_ids is not None and len(new.type_ids[0]) == len(new.windows[0])
    for some, every in zip(words_of(kind, new), words_of(kind, row), strict=True):
        assert some and not Counter(some) - Counter(every)


@every_kind
@given(text=texts, pair=st.none() | texts, key=keys)
@settings(max_examples=20, deadline=None)
def test_probability_0_changes_nothing(kind: str, text: str, pair: str | None, key: Any) -> None:
    row = row_of(kind, text, pair)
    new = augmented(kind, row, key, WordDropout(probability=0), WordSwap(probability=0))
    assert np.array_equal(new.windows[0], row.windows[0])
    assert row.type_ids is None or np.array_equal(new.type_ids[0], row.type_ids[0])  # type: ignore[index]


def test_words_change_as_often_as_is_said() -> None:
    text = Text.of([[number] for number in range(100)])
    rng = np.random.default_rng(0)
    kept = [WordDropout(probability=0.3).changed(text, rng).num_words for _ in range(400)]
    assert np.mean(kept) == pytest.approx(70, abs=0.7)  # 3 standard errors
    moved = [np.sum(WordSwap(probability=0.3).changed(text, rng).tokens_T != text.tokens_T) for _ in range(400)]
    assert np.mean(moved) == pytest.approx(2 * 99 * 0.3 / 1.3, abs=2)  # a word that has just moved stays: p / (1 + p) of the places


def test_every_word_but_one_that_leans_is_swapped_and_dropped_alike() -> None:
    text = Text.of([[number] for number in range(6)])
    dropped, last = Counter[int](), Counter[int]()
    for seed in range(3000):
        rng = np.random.default_rng(seed)
        dropped.update(set(range(6)) - set(WordDropout(probability=0.2).changed(text, rng).tokens_T.tolist()))
        last.update(WordDropout(probability=0.99).changed(text, rng).tokens_T.tolist())
    for counts in (dropped, last):
        assert max(counts.values()) < 1.25 * min(counts[word] for word in range(6)), counts


def test_swaps_worked_by_hand() -> None:
    class Dice:
        def random(self, size: int) -> np.ndarray:
            return np.array([0.0, 0.0, 0.9, 0.0])[:size]

    def words(*, leans: bool) -> list[int]:
        return WordSwap(probability=0.5).changed(Text.of([[1], [2], [3], [4], [5]], leans=leans), Dice()).tokens_T.tolist()  # type: ignore[arg-type]

    assert words(leans=False) == [2, 1, 3, 5, 4]
    assert words(leans=True) == [1, 3, 2, 5, 4]


def test_chinese_is_changed_character_by_character() -> None:
    text = "你是我的你们在这个时来有"
    row = row_of("wordpiece", text)
    tokenizer = made("wordpiece")[0]
    assert len(words_of("wordpiece", row)[0]) == len(text)
    new = augmented("wordpiece", row, (0, 0, 0), WordDropout(probability=0.4))
    assert is_subsequence(list(tokenizer.decode(new.windows[0][1:-1]).replace(" ", "")), list(text)) and len(new.windows[0]) < len(text)


def test_they_work_one_after_the_other_in_the_order_of_the_list() -> None:
    dropout, swap = WordDropout(probability=0.4), WordSwap(probability=0.4)
    row = row_of("wordpiece", "my parcels the late we 你 a ok my parcel")
    (text,) = [text for _, text in made("wordpiece")[1].texts(row.windows[0], None)]
    rng, key = np.random.default_rng((1, 2, 3)), (1, 2, 3)
    by_hand = swap.changed(dropout.changed(text, rng), rng).tokens_T
    new = augmented("wordpiece", row, key, dropout, swap).windows[0][1:-1]
    assert np.array_equal(new, by_hand)
    for others in ((swap, dropout), (dropout,), (swap,)):
        assert not np.array_equal(augmented("wordpiece", row, key, *others).windows[0][1:-1], by_hand)


# ---- when they do it


@every_kind
def test_the_key_decides_and_nothing_else(kind: str) -> None:
    rows = [row_of(kind, " ".join(WORDS[: 3 + number % 7]), id=number) for number in range(24)]
    both = (WordDropout(probability=0.3), WordSwap(probability=0.3))

    def epoch(seed: int, number: int, order: list[Row]) -> dict[int, list[int]]:
        return {row.id: augmented(kind, row, (seed, number, row.id), *both).windows[0].tolist() for row in order}

    first = epoch(0, 0, rows)
    assert epoch(0, 0, rows[::-1]) == first and epoch(0, 0, rows[7:] + rows[:7]) == first
    for other in (epoch(0, 1, rows), epoch(1, 0, rows)):
        assert sum(other[row.id] != first[row.id] for row in rows) > len(rows) / 2
    same_text = [row_of(kind, "my parcels the late we a ok", id=number) for number in range(24)]
    assert len({tuple(ids) for ids in epoch(0, 0, same_text).values()}) > 5, "rows with one text are changed alike"


def test_windows_are_changed_one_by_one() -> None:
    tokenizer, marks = made("wordpiece")
    tokenizer.backend_tokenizer.enable_truncation(8, stride=2)
    encoding = tokenizer.backend_tokenizer.encode("my parcels the late we parcels again the a ok my late my parcel")
    tokenizer.backend_tokenizer.no_truncation()
    windows = [np.array(window.ids, np.int32) for window in (encoding, *encoding.overflowing)]
    row = Row(0, windows, None, target=1)
    new = Augmenter((WordDropout(probability=0.5), WordSwap(probability=0.5)), marks)(row, np.random.default_rng(0))
    assert len(new.windows) == len(windows) > 2
    for some, every in zip(new.windows, windows, strict=True):
        assert some[0] == tokenizer.cls_token_id and some[-1] == tokenizer.sep_token_id and len(some) > 2
        assert not Counter(some.tolist()) - Counter(every.tolist())
    assert any(len(some) < len(every) for some, every in zip(new.windows, windows, strict=True))


# ---- what a recipe says


def faults_of(augment: Any, **data: Any) -> list[str]:
    with pytest.raises(ConfigError) as error:
        resolve({"data": {"train": "rows.csv", "augment": augment, **data}})
    return [str(fault) for fault in error.value.faults]


def test_a_recipe_takes_names_and_settings() -> None:
    recipe = resolve({"data": {"train": "rows.csv", "augment": [{"type": "word-dropout", "probability": 0.2}, "word-swap"]}})
    assert recipe.data.augment == (WordDropout(probability=0.2), WordSwap())
    written = recipe.as_dict()
    assert written["data"]["augment"] == [{"type": "word-dropout", "probability": 0.2}, {"type": "word-swap", "probability": 0.1}]
    assert resolve(written) == recipe and resolve(recipe) == recipe
    assert resolve({"data": "rows.csv"}).data.augment == () == resolve({"data": {"augment": None}}).data.augment


def test_the_command_line_sets_the_list() -> None:
    _, changes = split_changes(["data.augment=[{type: word-dropout, probability: 0.2}, word-swap]"])
    assert resolve({"data": {"train": "rows.csv", "augment": ["word-swap"]}}, changes).data.augment == (
        WordDropout(probability=0.2),
        WordSwap(),
    )


def test_an_object_is_taken_as_it_is() -> None:
    swap = WordSwap(probability=0.4)
    assert resolve({"data": {"augment": [swap]}}).data.augment == (swap,)


@pytest.mark.parametrize(
    ("augment", "fault"),
    [
        (["word-swp"], "data.augment.0.type: unknown augmentation 'word-swp' (did you mean 'word-swap'?)"),
        (["word-swap", {"type": "word-drop"}], "data.augment.1.type: unknown augmentation 'word-drop' (did you mean 'word-dropout'?)"),
        ([{"type": "word-swap", "probabilty": 0.2}], "data.augment.0.probabilty: unknown key (did you mean 'probability'?)"),
        ([{"type": "word-swap", "probability": "often"}], "data.augment.0.probability: got 'often', wanted a number"),
        (
            [{"probability": 0.2}],
            "data.augment.0: got {'probability': 0.2}, wanted a name or {type: name, ...} (known: word-dropout, word-swap)",
        ),
        ("word-swap", "data.augment: got 'word-swap', wanted a list (such as data.augment=[word-dropout, word-swap])"),
        ({"type": "word-swap"}, "data.augment: got {'type': 'word-swap'}, wanted a list (such as data.augment=[word-dropout, word-swap])"),
    ],
)
def test_a_fault_says_where_and_what_to_write(augment: Any, fault: str) -> None:
    assert faults_of(augment) == [fault]


@pytest.mark.parametrize("probability", [1, 1.5, -0.1, float("nan")])
@pytest.mark.parametrize("cls", [WordDropout, WordSwap])
def test_a_probability_is_from_0_to_below_1(cls: type[Augmentation], probability: float) -> None:
    assert validate(cls, {"probability": probability}, path="data.augment.0")[1][0].path == "data.augment.0.probability"
    assert validate(cls, {"probability": 0.999})[1] == []


def test_all_faults_are_said_at_once() -> None:
    faults = faults_of(["word-swp", {"type": "word-swap", "probability": 2}, "word-dropout"], max_bad_rows=7)
    assert [fault.partition(":")[0] for fault in faults] == ["data.augment.0.type", "data.augment.1.probability", "data.max_bad_rows"]
