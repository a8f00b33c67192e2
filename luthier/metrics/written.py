"""Texts that a model wrote, beside the right ones: what measures count of each row, and how the sums become scores.

Shapes: N rows, K numbers of each, R resamples.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from luthier.metrics.row_sums import Formula, RowSums

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u3040-\u30ff"  # Chinese characters, and kana
PIECES = re.compile(rf"[{HAN}]|[^\s{HAN}]+")
GRAM = 4


@dataclass(frozen=True)
class Written:
    """What was written for N rows.

    Args:
        ids_N: Sample ids.
        texts: The text of each row.
        references: The right texts of each row, at least one.
    """

    ids_N: np.ndarray
    texts: Sequence[str]
    references: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Counted:
    """What a measure counts: K numbers of each row, how their sums become scores, and what is to be said of it."""

    columns_NK: np.ndarray
    formula: Formula
    details: Mapping[str, Any] = field(default_factory=dict)


Measure = Callable[[Written], Counted]


def measured(written: Written, measures: Sequence[Measure], *, primary: str) -> RowSums:
    """Return the scores of several measures as one.

    Args:
        written: The texts.
        measures: Such as `rouge`, `bleu`, `length`.
        primary: The score that two models are compared by.
    """
    counted = [measure(written) for measure in measures]
    edges = np.cumsum([0, *(one.columns_NK.shape[1] for one in counted)])

    def formula(sums_RK: np.ndarray) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for one, start, stop in zip(counted, edges, edges[1:], strict=False):
            found |= one.formula(sums_RK[:, start:stop])
        return found

    details = {key: value for one in counted for key, value in one.details.items()}
    columns_NK = np.concatenate([one.columns_NK for one in counted], axis=1)
    return RowSums(np.asarray(written.ids_N), columns_NK, formula, primary, details=details)


def pieces(text: str) -> list[str]:
    """Return the words of a text; every Chinese character counts as one."""
    return PIECES.findall(text)


def length(written: Written) -> Counted:
    """Count words (Chinese characters) of what was written: `length` is their mean."""
    counts_N2 = np.array([(len(pieces(text)), 1) for text in written.texts], np.float64)
    right = float(np.mean([len(pieces(references[0])) for references in written.references]))
    return Counted(counts_N2, lambda sums_R2: {"length": sums_R2[:, 0] / sums_R2[:, 1]}, {"reference_length": right})


def repetition(written: Written) -> Counted:
    """Count four words in a row that stood in the same text before: `repetition` is their share, of 1; none where texts are shorter."""
    counts_N2 = np.array([_repeated(pieces(text)) for text in written.texts], np.float64)

    def formula(sums_R2: np.ndarray) -> dict[str, np.ndarray]:
        return {"repetition": sums_R2[:, 0] / np.maximum(sums_R2[:, 1], 1)}

    return Counted(counts_N2, formula)


def exact_match(written: Written) -> Counted:
    """Count texts that are one of the right ones, but for white space at the ends."""
    pairs = zip(written.texts, written.references, strict=True)
    right_N = [text.strip() in {one.strip() for one in references} for text, references in pairs]
    counts_N2 = np.stack([np.array(right_N, np.float64), np.ones(len(right_N))], axis=1)
    return Counted(counts_N2, lambda sums_R2: {"exact_match": sums_R2[:, 0] / sums_R2[:, 1]})


def _repeated(words: Sequence[str]) -> tuple[int, int]:
    grams = [tuple(words[start : start + GRAM]) for start in range(len(words) - GRAM + 1)]
    return len(grams) - len(set(grams)), len(grams)
