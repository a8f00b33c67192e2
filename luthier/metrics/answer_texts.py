"""How near a given answer is to the right ones, as texts: exact match and F1 of SQuAD, and of CMRC 2018 for Chinese.

Shapes: N rows, R resamples.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from luthier.metrics.row_sums import RowSums

SCORES = ("exact_match", "f1", "answerable_f1", "unanswerable_accuracy")
ENOUGH_CHINESE = 0.3
_IDEOGRAPH = re.compile("[\u4e00-\u9fff]")
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CHINESE_MARKS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_UNITS = re.compile("[\u4e00-\u9fff]|[^\\W\u4e00-\u9fff]+(?:[.,'’][^\\W\u4e00-\u9fff]+)*|[^\\w\\s]")


class Asked(NamedTuple):
    """A row with its answer.

    Args:
        said: The answer that was given; empty for none.
        right: The right ones; none where there is no answer.
        chinese: Whether characters are compared, not words.
    """

    said: str
    right: Sequence[str]
    chinese: bool = False


def is_chinese(text: str) -> bool:
    """Whether at least three in ten characters of a text, spaces left out, are Chinese ones."""
    return len(_IDEOGRAPH.findall(text)) >= ENOUGH_CHINESE * max(1, len("".join(text.split())))


def compared_answers(ids_N: np.ndarray, rows: Sequence[Asked], *, details: Mapping[str, Any] | None = None) -> RowSums:
    """Return exact match and F1, the best over the right answers of each row; shares of 1.

    Args:
        ids_N: Sample ids.
        rows: Given and right answers.
        details: What stands behind the scores.
    """
    found = np.array([exact_and_f1(row) for row in rows], np.float64).reshape(len(rows), 2)
    answerable_N = np.array([bool(row.right) for row in rows], np.float64)
    columns = [np.ones(len(rows)), *found.T, answerable_N, answerable_N * found[:, 1], (1 - answerable_N) * found[:, 0]]
    return RowSums(ids_N, np.stack(columns, axis=1), _of_sums, "f1", True, details or {})


def exact_and_f1(row: Asked) -> tuple[float, float]:
    """Return the exact match and the F1 of one answer.

    Where there is no answer both are 1 for saying so, and 0 for anything else.

    Reference: SQuAD, https://arxiv.org/abs/1606.05250 and https://arxiv.org/abs/1806.03822; CMRC 2018, https://arxiv.org/abs/1810.07366
    """
    plain, overlap = (_plain_chinese, _f1_of_characters) if row.chinese else (plain_english, _f1_of_words)
    right = [text for text in row.right if plain(text)] or [""]
    return max(float(plain(row.said) == plain(text)) for text in right), max(overlap(row.said, text) for text in right)


def plain_english(text: str) -> str:
    """Return a text in lower case without punctuation, articles and spare spaces."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def _f1_of_words(said: str, right: str) -> float:
    mine, theirs = plain_english(said).split(), plain_english(right).split()
    return _f1(sum((Counter(mine) & Counter(theirs)).values()), len(mine), len(theirs))


def _plain_chinese(text: str) -> str:
    return "".join(mark for mark in text.lower().strip() if mark not in _CHINESE_MARKS)


def _f1_of_characters(said: str, right: str) -> float:
    mine, theirs = (_UNITS.findall(_plain_chinese(text)) for text in (said, right))
    return _f1(_longest_common_run(mine, theirs), len(mine), len(theirs))


def _f1(common: int, mine: int, theirs: int) -> float:
    if not mine or not theirs:
        return float(mine == theirs)
    return 2 * common / (mine + theirs)


def _longest_common_run(mine: Sequence[str], theirs: Sequence[str]) -> int:
    """Return how many units of one stand in the other one after the other, at most."""
    before, longest = [0] * (len(theirs) + 1), 0
    for unit in mine:
        now = [0, *(before[place] + 1 if unit == other else 0 for place, other in enumerate(theirs))]
        before, longest = now, max(longest, *now)
    return longest


def _of_sums(sums_RK: np.ndarray) -> dict[str, np.ndarray]:
    number_R, exact_R, f1_R, answerable_R, answerable_f1_R, none_R = sums_RK.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "exact_match": exact_R / number_R,
            "f1": f1_R / number_R,
            "answerable_f1": answerable_f1_R / answerable_R,
            "unanswerable_accuracy": none_R / np.round(number_R - answerable_R),
        }
