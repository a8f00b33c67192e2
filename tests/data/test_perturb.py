"""Changes of a text that leave its sense: only what may change does, and the generator alone decides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.errors import SetupError
from luthier.data.perturb.character_swap import swap_characters
from luthier.data.perturb.synonyms import read_wordnet, swap_synonyms

THESAURUS = {"film": ["movie", "picture"], "good": ["well"]}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_swaps_worked_by_hand() -> None:
    seen = {swap_characters("a Word, it's 1234 abcde", rng(seed), 1.0) for seed in range(40)}
    assert seen == {"a Wrod, it's 1234 acbde", "a Wrod, it's 1234 abdce"}
    assert swap_characters("one word more", rng(), 0.0) == "one word more"
    assert {swap_characters("AA²A", rng(seed), 1.0) for seed in range(40)} == {"AA²A"}


@given(st.text(max_size=60), st.integers(0, 1000))
def test_only_neighbours_inside_words_change_places(text: str, seed: int) -> None:
    changed = swap_characters(text, rng(seed), 0.5)
    assert changed == swap_characters(text, rng(seed), 0.5) and len(changed) == len(text) and sorted(changed) == sorted(text)
    places = [place for place, (one, other) in enumerate(zip(text, changed, strict=True)) if one != other]
    assert all(other - one == 1 for one, other in zip(places[::2], places[1::2], strict=True))
    assert all(text[place].isalpha() and text[place - 1].isalpha() and place > 0 for place in places)


def test_as_many_words_change_as_were_asked_for() -> None:
    text = "word " * 4000
    assert 0.27 < sum(word != "word" for word in swap_characters(text, rng(), 0.3).split()) / 4000 < 0.33
    assert 0.27 < sum(word != "film" for word in swap_synonyms("film " * 4000, rng(), 0.3, THESAURUS).split()) / 4000 < 0.33


def test_synonyms_worked_by_hand() -> None:
    seen = {swap_synonyms("Film: a goods film!", rng(seed), 1.0, THESAURUS) for seed in range(40)}
    assert seen == {f"{one}: a goods {other}!" for one in ("Movie", "Picture") for other in ("movie", "picture")}
    assert swap_synonyms("good film", rng(), 0.0, THESAURUS) == "good film"


def test_wordnet_is_read(tmp_path: Path) -> None:
    licence = "  1 This software and database\n"
    for kind in ("verb", "adj", "adv"):
        (tmp_path / f"data.{kind}").write_text(licence)
    (tmp_path / "data.noun").write_text(
        licence
        + "00000100 10 n 03 movie 0 film 0 moving_picture 0 001 @ 00000300 n 0000 | a form of entertainment\n"
        + "00000200 06 n 02 film 1 layer 0 000 | a thin coating\n"
    )
    (tmp_path / "index.sense").write_text(
        "film%1:06:00:: 00000200 2 3\nfilm%1:10:00:: 00000100 1 5\n"
        "layer%1:06:00:: 00000200 1 0\nmovie%1:10:00:: 00000100 1 4\nmoving_picture%1:10:00:: 00000100 1 9\n"
    )
    assert read_wordnet(tmp_path) == {"film": ["movie"], "movie": ["film"]}
    (tmp_path / "data.adv").unlink()
    with pytest.raises(SetupError, match=r"no such file: .*data\.adv"):
        read_wordnet(tmp_path)
