"""Every registered augmentation: draws from its generator alone, never empties or lengthens a text, and stays within it."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from luthier.core.config import build_registered
from luthier.data.augment import augmentations
from luthier.data.augment.augmentation import Augmentation, Augmenter
from luthier.data.prepared import Row
from luthier.data.words import Text, WordMarks

every_augmentation = pytest.mark.parametrize("name", augmentations.names())
SEEDS = range(60)
CLS, SEP, FIRST, SECOND = 1, 2, range(10, 30), range(40, 60)
TEXTS = {
    "one word": Text.of([[11, 12]]),
    "two words": Text.of([[11, 12], [13]]),
    "a first word that leans": Text.of([[11], [12, 13], [14], [15]], leans=True),
    "one word that leans": Text.of([[11]], leans=True),
    "a long text": Text.of([[10 + number] for number in range(512)]),
}


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng((0, seed))


def frozen(text: Text) -> Text:
    """The same text, in memory that cannot be written to, as rows on disk are."""
    for array in (text.tokens_T, text.edges):
        array.flags.writeable = False
    return text


def marks() -> WordMarks:
    """A vocabulary of 64 tokens in which an odd one of a text goes on with the word before."""
    tokens_V = np.arange(64)
    special_V = tokens_V < FIRST.start
    return WordMarks((tokens_V % 2 == 0) | special_V, np.zeros(64, bool), special_V)


def sound(text: Text, old: Text) -> None:
    assert text.num_words >= 1, "a text may not be emptied"
    assert 1 <= len(text.tokens_T) <= len(old.tokens_T), "a text may not get longer than the model takes"
    assert text.tokens_T.dtype == old.tokens_T.dtype
    assert text.edges[0] == 0 and text.edges[-1] == len(text.tokens_T) and (np.diff(text.edges) > 0).all()
    if old.leans:
        assert old.words[0] not in text.words[1:], "a word that leans melts into the word before it"
        assert text.leans == (old.words[0] == text.words[0])


def strong(name: str) -> Augmentation:
    return augmentations.get(name).example()[0]


def test_the_augmentations_of_the_issue_are_here() -> None:
    assert {"word-dropout", "word-swap"} <= set(augmentations.names())


@every_augmentation
def test_the_example_is_changed_and_stays_sound(name: str) -> None:
    augmentation, text = augmentations.get(name).example()
    assert isinstance(augmentation, augmentations.get(name))
    seen = [augmentation.changed(frozen(text), generator(seed)) for seed in SEEDS]
    for changed in seen:
        sound(changed, text)
    assert sum(changed.words != text.words for changed in seen) >= len(SEEDS) / 10, "the example should often be changed"


@every_augmentation
@pytest.mark.parametrize("case", TEXTS)
def test_no_text_is_emptied_lengthened_or_written_to(name: str, case: str) -> None:
    text = frozen(TEXTS[case])
    for seed in SEEDS:
        sound(strong(name).changed(text, generator(seed)), text)


@every_augmentation
def test_the_generator_decides_everything(name: str) -> None:
    text = TEXTS["a long text"]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    once = [strong(name).changed(text, generator(seed)).words for seed in SEEDS]
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()), "a global generator was used"
    np.random.seed(1)
    again = {seed: strong(name).changed(text, generator(seed)).words for seed in reversed(SEEDS)}
    assert once == [again[seed] for seed in SEEDS]
    assert len({tuple(words) for words in once}) > len(SEEDS) / 2, "every seed gives the same text"


@every_augmentation
def test_special_tokens_and_pairs_stay_whole(name: str) -> None:
    tokens_T = np.array([CLS, *FIRST, SEP, *SECOND, SEP], np.int32)
    types_T = np.array([0] * 22 + [1] * 21, np.int8)
    row, changes = Row(7, [tokens_T], [types_T], target=3), 0
    for seed in SEEDS:
        new = Augmenter((strong(name),), marks())(row, generator(seed))
        (ids,), (types,) = [window.tolist() for window in new.windows], [window.tolist() for window in new.type_ids or []]
        one, other = ids[1 : ids.index(SEP)], ids[ids.index(SEP) + 1 : -1]
        assert (new.id, new.target, ids[0], ids[-1]) == (7, 3, CLS, SEP)
        assert one and other and not {*one, *other} & {CLS, SEP} and not set(one) & set(SECOND) and not set(other) & set(FIRST)
        assert types == [0] * (len(one) + 2) + [1] * (len(other) + 1)
        assert new.windows[0].dtype == np.int32 and new.type_ids and new.type_ids[0].dtype == np.int8
        changes += ids != tokens_T.tolist()
    assert changes > len(SEEDS) / 10


@every_augmentation
def test_what_is_written_is_read_back(name: str) -> None:
    augmentation = strong(name)
    assert build_registered(augmentations, augmentation.model_dump(mode="json"), path="data.augment.0") == (augmentation, [])
