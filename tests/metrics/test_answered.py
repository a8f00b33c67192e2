"""Answered refuses what cannot be scored, and merges exactly."""

from __future__ import annotations

import numpy as np
import pytest
from made_answers import SIX_ROWS, random_answered, six

from luthier.metrics.answered import Answered

GOOD = {"ids_N": np.arange(6), "probabilities_NC": SIX_ROWS, "truth": np.array([0, 0, 1, 1, 2, 2]), "labels": ("a", "b", "c")}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ids_N": np.array([], dtype=int)}, "no rows"),
        ({"ids_N": np.arange(6).reshape(2, 3)}, "must be a list"),
        ({"ids_N": np.array([0, 1, 2, 3, 4, 4])}, "id 4 stands for two rows"),
        ({"labels": ("a", "b")}, "for the ids and labels given"),
        ({"truth": np.array([0, 1])}, r"truth must be \(6,\)"),
        ({"truth": np.array([0, 0, 1, 1, 2, 3])}, "truth 3 is not one of 3"),
        ({"truth": np.array([0, 0, 1, 1, 2, -1])}, "truth -1 is not one of 3"),
        ({"probabilities_NC": np.where(SIX_ROWS == 0.5, np.nan, SIX_ROWS)}, "of id 3 are not finite"),
        ({"probabilities_NC": SIX_ROWS * 5}, "were these logits"),
        ({"probabilities_NC": SIX_ROWS / 2}, "is this multi-label"),
        ({"multi_label": True}, r"truth must be \(6, 3\)"),
    ],
)
def test_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Answered(**{**GOOD, **changed})  # type: ignore[arg-type]


def test_predictions_and_right() -> None:
    assert six().predictions.tolist() == [0, 1, 1, 1, 2, 0]
    assert six().right_N.tolist() == [True, False, True, True, True, False]
    several = Answered(np.arange(2), np.array([[0.5, 0.49], [0.9, 0.1]]), np.array([[1, 0], [1, 1]]), ("a", "b"), multi_label=True)
    assert several.predictions.tolist() == [[True, False], [True, False]]
    assert several.right_N.tolist() == [True, False]


@pytest.mark.parametrize("multi_label", [False, True])
def test_merging_does_not_depend_on_the_cut(multi_label: bool) -> None:
    whole = random_answered(50, 4, multi_label=multi_label, seed=1)
    order = np.random.default_rng(0).permutation(50)
    shards = [whole.select(order[start : start + 17]) for start in range(0, 50, 17)]
    merged = shards[0].merge(shards[1:])
    for field in ("ids_N", "probabilities_NC", "truth"):
        assert np.array_equal(getattr(merged, field), getattr(whole, field))


def test_merging_refuses_overlap_and_other_labels() -> None:
    with pytest.raises(ValueError, match="id 0 stands for two rows"):
        six().merge([six()])
    other = Answered(np.arange(6, 12), SIX_ROWS, np.zeros(6), ("x", "y", "z"))
    with pytest.raises(ValueError, match="different labels"):
        six().merge([other])
