"""The paired comparison finds planted differences, and only those."""

from __future__ import annotations

import numpy as np
import pytest
from made_answers import as_class, of_accuracy, random_answered

from luthier.metrics.answered import Answered
from luthier.metrics.comparison import compare
from luthier.metrics.intervals import draw


def planted(num_rows: int, only_base: int, only_tuned: int) -> tuple[Answered, Answered]:
    """Two models that differ on the first rows: right on all others."""
    base, tuned = of_accuracy(num_rows, num_rows), of_accuracy(num_rows, num_rows)
    base_NC, tuned_NC = base.probabilities_NC.copy(), tuned.probabilities_NC.copy()
    tuned_NC[:only_base] = tuned_NC[:only_base, ::-1]
    base_NC[only_base : only_base + only_tuned] = base_NC[only_base : only_base + only_tuned, ::-1]
    remade = [Answered(base.ids_N, probabilities_NC, base.truth, base.labels) for probabilities_NC in (base_NC, tuned_NC)]
    return remade[0], remade[1]


@pytest.mark.parametrize(
    ("only_base", "only_tuned", "verdict"),
    [
        (0, 6, "better"),
        (6, 0, "worse"),
        (0, 5, "no difference shown"),
        (10, 12, "no difference shown"),
        (10, 40, "better"),
        (40, 10, "worse"),
    ],
)
def test_planted_difference(only_base: int, only_tuned: int, verdict: str) -> None:
    found = compare(*planted(200, only_base, only_tuned))
    assert (found.only_base_right, found.only_tuned_right, found.verdict) == (only_base, only_tuned, verdict)
    assert found.difference == pytest.approx((only_tuned - only_base) / 200)
    assert found.difference == pytest.approx(found.tuned - found.base)
    assert found.low <= found.difference <= found.high


def test_exact_p_value_by_hand() -> None:
    assert compare(*planted(50, 1, 5)).p_value == pytest.approx(2 * (1 + 6) / 2**6)
    assert compare(*planted(50, 0, 0)).p_value == 1.0


def test_interval_is_that_of_resampled_rows() -> None:
    base, tuned = planted(300, 30, 60)
    shift_N = tuned.right_N.astype(float) - base.right_N
    resampled = draw(300, 20_000, np.random.default_rng(1)) @ shift_N / 300
    found = compare(base, tuned, resamples=20_000)
    assert [found.low, found.high] == pytest.approx(np.quantile(resampled, [0.025, 0.975]), abs=0.004)


def test_order_of_rows_does_not_matter() -> None:
    base, tuned = planted(100, 5, 20)
    assert compare(base, tuned.select(np.arange(100)[::-1])) == compare(base, tuned)


def test_multi_label_compares_exact_matches() -> None:
    base = random_answered(80, 3, multi_label=True, seed=1)
    tuned = Answered(base.ids_N, base.truth.astype(float), base.truth, base.labels, True)
    found = compare(base, tuned)
    assert (found.tuned, found.only_base_right, found.verdict) == (1.0, 0, "better")


def test_different_rows_or_truth_are_refused() -> None:
    base, tuned = planted(20, 0, 5)
    with pytest.raises(ValueError, match="different rows"):
        compare(base, tuned.select(np.arange(20) < 19))
    with pytest.raises(ValueError, match="different labels or truth"):
        compare(base, as_class(tuned, 1 - tuned.truth))
