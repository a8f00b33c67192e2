"""Tag schemes: which one a file uses, all of them as IOB2, and tags that break theirs."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from luthier.data.reading import RowFault
from luthier.tasks.tokens.schemes import as_iob2, find_scheme, labels_of, pairs_of, spans_of

IOB2 = "O B-PER I-PER O B-LOC B-LOC I-LOC B-PER"
SAME = {
    "iob2": IOB2,
    "iob1": "O I-PER I-PER O I-LOC B-LOC I-LOC I-PER",
    "bioes": "O B-PER E-PER O S-LOC B-LOC E-LOC S-PER",
    "bilou": "O B-PER L-PER O U-LOC B-LOC L-LOC U-PER",
}


def found(*rows: str) -> str:
    pairs: Counter = Counter()
    for row in rows:
        pairs.update(pairs_of(row.split()))
    return find_scheme(pairs)


@pytest.mark.parametrize("scheme", SAME)
def test_each_scheme_is_found_and_says_the_same(scheme: str) -> None:
    tags = SAME[scheme].split()
    assert found(SAME[scheme]) == scheme
    assert as_iob2(tags, scheme, list("abcdefgh")) == IOB2.split()


def test_letters_alone_are_words_of_segmented_text() -> None:
    assert found("B M E S B E") == "bioes"
    assert spans_of(as_iob2("B M E S B E".split(), "bioes", list("我爱北京天安"))) == [("span", 0, 3), ("span", 3, 4), ("span", 4, 6)]


def test_types_without_letters_are_io() -> None:
    assert found("O O PER PER O LOC") == "io"
    assert as_iob2("O O PER PER LOC PER".split(), "io", list("abcdef")) == "O O B-PER I-PER B-LOC B-PER".split()
    assert found("I-PER I-PER O O I-LOC") == "io"


def test_parts_of_speech_are_plain() -> None:
    assert found("DET NOUN VERB", "DET ADJ NOUN") == "plain"
    assert as_iob2(["DET", "NOUN"], "plain", ["a", "dog"]) == ["DET", "NOUN"]


def test_few_broken_rows_do_not_change_the_scheme() -> None:
    assert found(*[IOB2] * 10, "O I-PER O") == "iob2"
    assert found(*[SAME["iob1"]] * 10, "O B-PER O") == "iob1"


@pytest.mark.parametrize(
    ("scheme", "tags", "said"),
    [
        ("iob2", "O I-PER", "tags break iob2 (word 2 'b' has I-PER after O)"),
        ("iob2", "I-PER O", "tags break iob2 (word 1 'a' has I-PER after the beginning)"),
        ("iob2", "B-LOC I-PER", "tags break iob2 (word 2 'b' has I-PER after B-LOC)"),
        ("bioes", "B-PER O", "tags break bioes (word 2 'b' has O after B-PER)"),
        ("bioes", "O B-PER", "tags break bioes (the last word 'b' has B-PER, which does not end)"),
        ("bilou", "O L-PER", "tags break bilou (word 2 'b' has L-PER after O)"),
        ("iob2", "O NOUN", "no tag of iob2 (word 2 'b' has 'NOUN')"),
        ("iob2", "O S-PER", "no tag of iob2 (word 2 'b' has 'S-PER')"),
    ],
)
def test_tags_that_break_their_scheme(scheme: str, tags: str, said: str) -> None:
    with pytest.raises(RowFault, match=re.escape(said)):
        as_iob2(tags.split(), scheme, ["a", "b"])


def test_spans_written_in_any_scheme_come_back() -> None:
    dice = random.Random(0)
    for _ in range(200):
        spans, place = [], 0
        while place < 12:
            end = place + dice.randint(1, 3)
            if dice.random() < 0.6:
                spans.append((dice.choice(["LOC", "PER"]), place, end))
            place = end
        tags = {"bioes": ["O"] * place, "iob1": ["O"] * place}
        for kind, start, end in spans:
            inner = ["B", *"I" * (end - start - 2), "E"] if end - start > 1 else ["S"]
            touches = start > 0 and tags["iob1"][start - 1][2:] == kind
            for offset in range(end - start):
                tags["bioes"][start + offset] = f"{inner[offset]}-{kind}"
                tags["iob1"][start + offset] = f"{'B' if touches and not offset else 'I'}-{kind}"
        for scheme, written in tags.items():
            assert spans_of(as_iob2(written, scheme, ["w"] * place)) == spans


def test_labels_are_in_pairs() -> None:
    assert labels_of({"O", "B-PER", "B-LOC", "I-LOC"}, "iob2") == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert labels_of({"VERB", "NOUN"}, "plain") == ["NOUN", "VERB"]
