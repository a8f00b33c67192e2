"""Base against tuned on the same rows: is the difference more than chance?

Shapes: N rows, R resamples.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from luthier.metrics.answered import Answered


@dataclass(frozen=True)
class Comparison:
    """Two models on the same rows, by accuracy (multi-label: exact match).

    Args:
        base: Accuracy of the base.
        tuned: Accuracy of the tuned model.
        difference: tuned - base.
        low: Lower end of the paired bootstrap interval of the difference.
        high: Its upper end.
        p_value: Exact McNemar test: how likely a split of the differing rows this uneven is by chance alone.
        only_base_right: Rows that only the base answered rightly.
        only_tuned_right: Rows that only the tuned model answered rightly.
        verdict: `better`, `worse` or `no difference shown`, for the tuned model.
    """

    base: float
    tuned: float
    difference: float
    low: float
    high: float
    p_value: float
    only_base_right: int
    only_tuned_right: int
    verdict: str

    def as_dict(self) -> dict[str, float | int | str]:
        """Return the fields, for `metrics.json`."""
        return asdict(self)


def compare(base: Answered, tuned: Answered, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0) -> Comparison:
    """Compare two models on the same rows, row by row.

    Args:
        base: Answers of the model before tuning (or of any other).
        tuned: Answers of the model after it, for the same ids in any order.
        resamples: Number of paired bootstrap resamples, at least 1.
        confidence: Share of resamples within the interval; the verdict asks for a p-value below `1 - confidence`.
        seed: Seed of the resamples.

    Raises:
        ValueError: if the two are not answers for the same rows, labels and truth.

    Reference: Q. McNemar, Note on the sampling error of the difference between correlated proportions, 1947.
    """
    from scipy.stats import binomtest

    base, tuned = _paired(base, tuned)
    only_base, only_tuned = int((base.right_N & ~tuned.right_N).sum()), int((tuned.right_N & ~base.right_N).sum())
    num_rows, num_discordant = len(base), only_base + only_tuned
    p_value = float(binomtest(only_tuned, num_discordant).pvalue) if num_discordant else 1.0
    # a resampled difference depends only on how many rows of each kind were drawn
    kinds = np.array([only_base, only_tuned, num_rows - num_discordant]) / num_rows
    drawn_R3 = np.random.default_rng(seed).multinomial(num_rows, kinds, size=resamples)
    low, high = np.quantile((drawn_R3[:, 1] - drawn_R3[:, 0]) / num_rows, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Comparison(
        base=float(base.right_N.mean()),
        tuned=float(tuned.right_N.mean()),
        difference=(only_tuned - only_base) / num_rows,
        low=float(low),
        high=float(high),
        p_value=p_value,
        only_base_right=only_base,
        only_tuned_right=only_tuned,
        verdict=_verdict(only_tuned - only_base, p_value, 1 - confidence),
    )


def _paired(base: Answered, tuned: Answered) -> tuple[Answered, Answered]:
    """Return both sorted by id, after checking that they are about the same rows."""
    base, tuned = base.merge([]), tuned.merge([])
    if not np.array_equal(base.ids_N, tuned.ids_N):
        raise ValueError(f"the two runs answered different rows ({len(base)} and {len(tuned)} ids): compare them on the same ones")
    if base.labels != tuned.labels or not np.array_equal(base.truth, tuned.truth):
        raise ValueError("the two runs have different labels or truth for the same ids")
    return base, tuned


def _verdict(surplus: int, p_value: float, level: float) -> str:
    if p_value >= level:
        return "no difference shown"
    return "better" if surplus > 0 else "worse"
