"""The data set that ships in the package is what its README says."""

from __future__ import annotations

import csv
import re
from collections import Counter
from functools import cache
from itertools import pairwise

import pyarrow as pa
import pytest

from luthier.data.normalise import normalise
from luthier.data.section import EMBEDDED

FOLDER = EMBEDDED / "support_intents"
RUN_OF = {"en": 5, "zh": 8}
HAN = re.compile(r"[\u4e00-\u9fff]")


@cache
def rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def plain(texts: list[str]) -> list[str]:
    return normalise(pa.array(texts)).to_pylist()


def runs_of(text: str, language: str) -> set[tuple[str, ...]]:
    """Every run of five words (English) or eight characters (Chinese), punctuation left out."""
    pieces = re.findall(r"[a-z0-9']+" if language == "en" else r"\w", plain([text])[0])
    length = RUN_OF[language]
    return {tuple(pieces[start : start + length]) for start in range(len(pieces) - length + 1)}


def test_enough_rows_intents_and_languages() -> None:
    train, test = rows("train"), rows("test")
    assert len(train) + len(test) >= 1200 and len(train) >= 1200
    assert set(train[0]) == {"text", "intent", "language"}
    for part in (train, test):
        assert len({row["intent"] for row in part}) == 12 and {row["language"] for row in part} == {"en", "zh"}
        assert all(row["text"].strip() == row["text"] != "" for row in part)


def test_the_counts_of_its_readme_are_true() -> None:
    readme = " ".join((FOLDER / "README.md").read_text(encoding="utf-8").split())
    train, test = rows("train"), rows("test")
    per_train, per_test = (Counter(row["intent"] for row in part) for part in (train, test))
    said = re.search(r"([\d,]+) training and ([\d,]+) test utterances \((\d+) and (\d+) an intent, half of each", readme)
    assert said is not None and "in 12 intents" in readme
    counts = [int(number.replace(",", "")) for number in said.groups()]
    assert [len(train), len(test)] == counts[:2]
    assert set(per_train.values()) == {counts[2]} and set(per_test.values()) == {counts[3]}
    for part in (train, test):
        by_language = Counter((row["intent"], row["language"]) for row in part)
        assert all(by_language[intent, "en"] == by_language[intent, "zh"] for intent in per_train)


def test_each_text_is_in_the_language_it_says() -> None:
    for row in rows("train") + rows("test"):
        assert bool(HAN.search(row["text"])) is (row["language"] == "zh"), row


def test_no_text_occurs_twice() -> None:
    texts = plain([row["text"] for row in rows("train") + rows("test")])
    bare = [re.sub(r"\W+", "", text) for text in texts]
    assert [text for text, count in Counter(bare).items() if count > 1] == []


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_test_part_is_held_apart_by_wording(language: str) -> None:
    seen: dict[tuple[str, tuple[str, ...]], str] = {}
    for row in rows("train"):
        if row["language"] == language:
            seen |= {(row["intent"], run): row["text"] for run in runs_of(row["text"], language)}
    held_out = [row for row in rows("test") if row["language"] == language]
    compared = [(row["text"], (row["intent"], run)) for row in held_out for run in runs_of(row["text"], language)]
    shared = [(text, seen[key]) for text, key in compared if key in seen]
    assert shared == []
    assert len(compared) > 100, "there are runs to compare"


def test_short_and_long_forms() -> None:
    english = [len(row["text"].split()) for row in rows("train") if row["language"] == "en"]
    chinese = [len(row["text"]) for row in rows("train") if row["language"] == "zh"]
    assert min(english) <= 3 and max(english) >= 20
    assert min(chinese) <= 6 and max(chinese) >= 30


def test_no_templates_were_filled_in_by_a_loop() -> None:
    """Neighbouring rows differ in more than one word, and no opening of three words is used all over."""
    english = [row["text"].lower().split() for row in rows("train") if row["language"] == "en"]
    alike = [pair for pair in pairwise(english) if len(pair[0]) == len(pair[1]) > 3]
    assert [pair for pair in alike if sum(a != b for a, b in zip(*pair, strict=True)) < 2] == []
    openings = Counter(" ".join(words[:3]) for words in english if len(words) > 3)
    assert openings.most_common(1)[0][1] <= 0.05 * len(english), openings.most_common(3)
