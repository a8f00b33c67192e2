"""ROUGE: how many words, pairs of words, and words in the same order a written text shares with the right one.

Shapes: N rows, K kinds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from luthier.metrics.written import HAN, Counted, Measure, Written

KINDS = ("rouge1", "rouge2", "rougeL")
APART = re.compile(f"([{HAN}])")


def rouge(*, kinds: Sequence[str] = KINDS, stemmer: bool = False) -> Measure:
    """Return the measure: F1 of each kind, from 0 to 1, as the library rouge-score gives it; of several right texts the best.

    Args:
        kinds: rouge1, rouge2, rougeL.
        stemmer: Whether English words are cut to their stems (Porter) before they are compared.

    Reference: https://aclanthology.org/W04-1013; https://pypi.org/project/rouge-score
    """
    return partial(_counted, kinds=tuple(kinds), stemmer=stemmer)


class Words:
    """The tokenizer of rouge-score, which knows a to z and digits, with every Chinese character a word of its own.

    Args:
        stemmer: Whether English words are cut to their stems.
    """

    def __init__(self, stemmer: bool) -> None:
        from rouge_score.tokenizers import DefaultTokenizer

        self._plain = DefaultTokenizer(stemmer)

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text; without Chinese characters those of rouge-score."""
        words: list[str] = []
        for place, piece in enumerate(APART.split(text)):
            words += [piece] if place % 2 else self._plain.tokenize(piece)
        return words


def _counted(written: Written, *, kinds: tuple[str, ...], stemmer: bool) -> Counted:
    from rouge_score.rouge_scorer import RougeScorer

    scorer: Any = RougeScorer(list(kinds), tokenizer=Words(stemmer))
    pairs = zip(written.texts, written.references, strict=True)
    found = [scorer.score_multi(list(references), text) for text, references in pairs]
    columns_NK = np.array([[1.0, *(one[kind].fmeasure for kind in kinds)] for one in found], np.float64)

    def formula(sums_RK: np.ndarray) -> dict[str, np.ndarray]:
        return {kind: sums_RK[:, place] / sums_RK[:, 0] for place, kind in enumerate(kinds, start=1)}

    return Counted(columns_NK, formula)
