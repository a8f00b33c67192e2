"""BLEU and chrF of a whole set of translations, by sacrebleu: its counts of each sentence, summed, in its formula.

Shapes: N rows, K counts of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np

from luthier.metrics.written import Counted, Measure, Written, pieces


def bleu(*, tokenize: str = "auto") -> Measure:
    """Return the measure: BLEU of all sentences together, 0 to 100.

    Args:
        tokenize: sacrebleu's name of a tokenizer: 13a, intl, zh, char; auto: zh where most right texts are Chinese, else 13a.

    Reference: https://aclanthology.org/W18-6319
    """
    return partial(_bleu, tokenize=tokenize)


def chrf() -> Measure:
    """Return the measure: chrF of all sentences together, 0 to 100.

    Reference: https://aclanthology.org/W15-3049
    """
    return _chrf


def _bleu(written: Written, *, tokenize: str) -> Counted:
    from sacrebleu.metrics.bleu import BLEU

    chosen = tokenize if tokenize != "auto" else "zh" if _are_chinese(written.references) else "13a"
    return _counted(written, BLEU(tokenize=chosen, force=True), "bleu")


def _chrf(written: Written) -> Counted:
    from sacrebleu.metrics.chrf import CHRF

    return _counted(written, CHRF(), "chrf")


def _counted(written: Written, metric: Any, name: str) -> Counted:
    """Return what the metric counts of each sentence; the library's own bootstrap goes the same way."""
    streams = [list(stream) for stream in zip_longest(*written.references)]
    columns_NK = np.array(metric._extract_corpus_statistics(list(written.texts), streams), np.float64)

    def formula(sums_RK: np.ndarray) -> dict[str, np.ndarray]:
        return {name: np.array([metric._compute_score_from_stats(sums_K.tolist()).score for sums_K in sums_RK])}

    return Counted(columns_NK, formula, {f"{name}_signature": str(metric.get_signature())})


def _are_chinese(references: Sequence[Sequence[str]]) -> bool:
    """Whether most words of the right texts are single Chinese characters."""
    words = [word for texts in references for word in pieces(texts[0])]
    chinese = sum(len(word) == 1 and "\u3400" <= word <= "\u9fff" for word in words)
    return chinese > len(words) / 2
