"""Exact match and F1 of answers: values worked by hand from the definitions of SQuAD v2 and CMRC 2018."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.metrics.answer_texts import SCORES, Asked, compared_answers, exact_and_f1, is_chinese, plain_english


@pytest.mark.parametrize(
    ("said", "right", "exact", "f1"),
    [
        ("The Broncos!", ["broncos"], 1.0, 1.0),
        ("Denver Broncos", ["the Broncos"], 0.0, 2 / 3),
        ("in the year 1973", ["1973", "October 1973"], 0.0, 2 * 1 / (3 + 1)),  # in, year, 1973 against 1973
        ("cat cat dog", ["cat dog dog"], 0.0, 2 / 3),  # each word as often as both have it
        ("Paris", ["London", "Paris, France"], 0.0, 2 / 3),
        ("", ["x"], 0.0, 0.0),
        ("", [], 1.0, 1.0),
        ("x", [], 0.0, 0.0),
        ("the", [], 1.0, 1.0),  # what is nothing after normalisation is no answer
        ("", ["the", "a"], 1.0, 1.0),
        ("b", ["the", "b"], 1.0, 1.0),
    ],
)
def test_english(said: str, right: list[str], exact: float, f1: float) -> None:
    assert exact_and_f1(Asked(said, right)) == (exact, pytest.approx(f1))


def test_english_normalisation() -> None:
    assert plain_english("  An apple, a  Day;\tthe\nend. ") == "apple day end"
    assert plain_english("theatre another") == "theatre another"


@pytest.mark.parametrize(
    ("said", "right", "exact", "f1"),
    [
        ("《红楼梦》", ["红楼梦"], 1.0, 1.0),
        ("北京大学", ["北京"], 0.0, 2 * 2 / (4 + 2)),
        ("京北", ["北京"], 0.0, 2 * 1 / (2 + 2)),  # the longest run in common is one character
        ("在1998年", ["1998年"], 0.0, 2 * 2 / (3 + 2)),  # a number is one unit
        ("BERT模型", ["bert"], 0.0, 2 * 1 / (3 + 1)),
        ("上海", ["北京", "上海"], 1.0, 1.0),
        ("天津", ["北京"], 0.0, 0.0),
        ("", [], 1.0, 1.0),
        ("北京", [], 0.0, 0.0),
    ],
)
def test_chinese(said: str, right: list[str], exact: float, f1: float) -> None:
    assert exact_and_f1(Asked(said, right, chinese=True)) == (exact, pytest.approx(f1))


def test_the_language_is_found() -> None:
    assert is_chinese("2018年，CMRC 由哈工大讯飞联合实验室举办。")
    assert not is_chinese("The word 中国 stands in an English text.")
    assert not is_chinese("")


def test_scores_of_rows_with_and_without_answers() -> None:
    rows = [Asked("Denver Broncos", ["the Broncos"]), Asked("x", ["x"]), Asked("", []), Asked("y", []), Asked("", ["z"])]
    found = compared_answers(np.arange(5), rows)
    scores = {name: score.value for name, score in found.scores(resamples=50).items()}
    assert tuple(scores) == SCORES
    wanted = {"exact_match": 2 / 5, "f1": (2 / 3 + 1 + 1) / 5, "answerable_f1": (2 / 3 + 1) / 3, "unanswerable_accuracy": 1 / 2}
    assert scores == pytest.approx(wanted)


def test_a_score_of_rows_that_are_not_there_is_none() -> None:
    scores = compared_answers(np.arange(2), [Asked("x", ["x"]), Asked("y", ["x"])]).scores(resamples=0)
    assert scores["unanswerable_accuracy"].value is None and scores["f1"].value == 0.5
