"""Which tokens are hidden: the shares, whole words, never a special token, the same for the same draw."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.tasks.text.mask_preparation import begins_of
from luthier.tasks.text.masking import BEGINS, GOES_ON, NEVER, Masking, words_of

MASK, WORDS = 4, np.arange(10, 60)
MASKING = Masking(share=0.15, mask=0.8, random=0.1, whole_words=False, mask_id=MASK, words=WORDS)
marks = st.lists(st.sampled_from([NEVER, GOES_ON, BEGINS]), min_size=1, max_size=60).filter(lambda found: max(found) > NEVER)


def masked(marks_T: list[int], masking: Masking = MASKING, seed: int = 0):  # type: ignore[no-untyped-def]
    tokens_T = np.arange(100, 100 + len(marks_T))
    return tokens_T, *masking.applied(tokens_T, np.array(marks_T, np.int8), np.random.default_rng(seed))


@settings(max_examples=60, deadline=None)
@given(marks, st.integers(0, 99), st.booleans())
def test_what_is_hidden_and_what_is_left(marks_T: list[int], seed: int, whole: bool) -> None:
    tokens_T, changed_T, hidden = masked(marks_T, replace(MASKING, whole_words=whole), seed)
    free = (np.array(marks_T) != NEVER).nonzero()[0]
    assert set(hidden.places_M) <= set(free) and (np.diff(hidden.places_M) > 0).all()
    assert (hidden.tokens_M == tokens_T[hidden.places_M]).all(), "the truth is what stood there"
    others = np.setdiff1d(np.arange(len(tokens_T)), hidden.places_M)
    assert (changed_T[others] == tokens_T[others]).all(), "nothing else is changed"
    wanted = max(1, round(0.15 * len(free)))
    if not whole:
        assert len(hidden.places_M) == wanted
        return
    words = words_of(np.array(marks_T))
    assert sorted(place for word in words for place in word) == free.tolist()
    assert all(set(word) <= set(hidden.places_M) or not set(word) & set(hidden.places_M) for word in words), "a word is hidden whole"
    assert 1 <= len(hidden.places_M) <= max(wanted, max(map(len, words)))


def test_words_are_cut_where_they_begin_and_at_special_tokens() -> None:
    found = words_of(np.array([NEVER, BEGINS, GOES_ON, NEVER, GOES_ON, GOES_ON, BEGINS, NEVER]))
    assert [word.tolist() for word in found] == [[1, 2], [4, 5], [6]]


def test_the_shares_are_those_of_the_settings() -> None:
    counts, changed = Counter[str](), 0
    for seed in range(200):
        _, changed_T, hidden = masked([BEGINS] * 100, seed=seed)
        for place, token in zip(hidden.places_M, hidden.tokens_M, strict=True):
            counts["mask" if changed_T[place] == MASK else "kept" if changed_T[place] == token else "random"] += 1
        changed += len(hidden.places_M)
    assert changed == 200 * 15
    assert [counts[name] / changed for name in ("mask", "random", "kept")] == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_a_held_out_row_is_hidden_by_its_id_alone() -> None:
    tokens_T, marks_T = np.arange(100, 140), np.full(40, BEGINS, np.int8)
    first, again, other = (MASKING.fixed(tokens_T, marks_T, id_) for id_ in (7, 7, 8))
    assert (first[0] == again[0]).all() and (first[1].places_M == again[1].places_M).all()
    assert not np.array_equal(first[1].places_M, other[1].places_M)


def test_words_of_a_segmentation() -> None:
    text, words = "我的银行卡 被盗了", ["我", "的", "银行卡", "被盗", "了"]
    offsets = [(place, place + 1) for place, character in enumerate(text) if character != " "]
    assert begins_of(text, words, offsets).tolist() == [True, True, True, False, False, True, False, True]
