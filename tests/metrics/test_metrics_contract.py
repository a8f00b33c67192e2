"""Every registered metric: its worked example, its resamples against scikit-learn, merging, bounds, extremes, undefined cases."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_answers import named, random_answered, six

from luthier.metrics import metrics
from luthier.metrics.answered import Answered
from luthier.metrics.intervals import draw, scores
from luthier.metrics.metric import Metric, Values

KEYS = {f"{name}_{kind}" for name in ("precision", "recall", "f1") for kind in ("macro", "micro", "weighted")}
KEYS |= {"accuracy", "mcc", "auroc", "ece", "qwk", "mae"}
every_metric = pytest.mark.parametrize("name", metrics.names())
answers = st.builds(
    random_answered,
    st.integers(1, 40),
    st.integers(1, 6),
    multi_label=st.booleans(),
    seed=st.integers(0, 10_000),
    levels=st.sampled_from([2, 8, 1000]),
)


def repeated(answered: Answered, counts_N: np.ndarray) -> Answered:
    """The resample as rows of their own."""
    rows = np.repeat(np.arange(len(answered)), counts_N.astype(int))
    return Answered(np.arange(len(rows)), answered.probabilities_NC[rows], answered.truth[rows], answered.labels, answered.multi_label)


def assert_same(drawn: dict[str, np.ndarray], column: int, values: Values) -> None:
    assert set(drawn) == set(values)
    for key, value in values.items():
        expected = np.nan if value is None else value
        assert drawn[key][column] == pytest.approx(expected, abs=1e-12, nan_ok=True), key


def test_the_score_keys_are_those_of_the_issue() -> None:
    keys = [key for name in metrics.names() for key in metrics.get(name).keys]
    assert sorted(keys) == sorted(KEYS)


@every_metric
def test_example(name: str) -> None:
    metric, answered, expected = metrics.get(name).example()
    assert isinstance(metric, metrics.get(name))
    assert metric.values(answered) == pytest.approx(expected, abs=1e-12)
    assert set(expected) == set(metric.keys)


@every_metric
@settings(max_examples=60, deadline=None)
@given(answered=answers)
def test_one_of_each_row_is_the_value_itself(name: str, answered: Answered) -> None:
    metric: Metric = metrics.get(name)()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = metric.values(answered)
        drawn = metric.resampled(answered, np.ones((1, len(answered))))
    assert_same(drawn, 0, values)
    low, high = metric.bounds
    assert all(value is None or low - 1e-12 <= value <= high + 1e-12 for value in values.values())


@every_metric
@settings(max_examples=30, deadline=None)
@given(answered=answers, seed=st.integers(0, 10_000))
def test_a_resample_scores_like_its_rows_written_out(name: str, answered: Answered, seed: int) -> None:
    metric: Metric = metrics.get(name)()
    counts_RN = draw(len(answered), 4, np.random.default_rng(seed))
    drawn = metric.resampled(answered, counts_RN)
    for column, counts_N in enumerate(counts_RN):
        assert_same(drawn, column, metric.values(repeated(answered, counts_N)))


@every_metric
@pytest.mark.parametrize("multi_label", [False, True])
def test_merged_shards_score_like_the_whole(name: str, multi_label: bool) -> None:
    metric: Metric = metrics.get(name)()
    whole = random_answered(101, 5, multi_label=multi_label, seed=3)
    shards = [whole.select(np.arange(101) % 4 == part) for part in (2, 0, 3, 1)]
    merged = shards[0].merge(shards[1:])
    assert np.array_equal(merged.ids_N, whole.ids_N)
    assert metric.values(merged) == metric.values(whole)


@every_metric
@pytest.mark.parametrize("num_classes", [2, 4])
def test_best_and_worst(name: str, num_classes: int) -> None:
    metric: Metric = metrics.get(name)()
    truth_N = np.arange(40) % num_classes
    right_NC = np.eye(num_classes)[truth_N]
    wrong_NC = np.eye(num_classes)[(truth_N + 1) % num_classes]
    perfect = metric.values(Answered(np.arange(40), right_NC, truth_N, named(num_classes)))
    worst = metric.values(Answered(np.arange(40), wrong_NC, truth_N, named(num_classes)))
    low, high = metric.bounds if metric.greater_is_better else metric.bounds[::-1]
    assert all(value == pytest.approx(high) for value in perfect.values())
    if np.isinf(low):
        assert all(0.5 <= abs(value - high) <= num_classes - 1 for value in worst.values() if value is not None)
        return
    assert all(abs(value - low) < abs(value - high) for value in worst.values() if value is not None)
    if num_classes == 2:
        assert all(value == pytest.approx(low) for value in worst.values())


@every_metric
def test_what_is_undefined_is_none_and_silent(name: str) -> None:
    one_class = Answered(np.arange(3), np.full((3, 2), 0.5), np.zeros(3), named(2))
    several = random_answered(20, 3, multi_label=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for answered, undefined in ((one_class, {"auroc", "qwk"}), (several, {"mcc", "qwk", "mae"})):
            for key, score in scores(answered, keys=metrics.get(name).keys, resamples=50).items():
                assert (score.value is None) == (key in undefined), key
                assert (score.low is None) == (key in undefined), key


def test_six_rows_by_hand() -> None:
    # truth 0 0 1 1 2 2, answers 0 1 1 1 2 0
    expected = {
        "accuracy": 4 / 6,
        "precision_macro": (1 / 2 + 2 / 3 + 1) / 3,
        "precision_micro": 4 / 6,
        "precision_weighted": (1 / 2 + 2 / 3 + 1) / 3,
        "recall_macro": (1 / 2 + 1 + 1 / 2) / 3,
        "recall_micro": 4 / 6,
        "recall_weighted": (1 / 2 + 1 + 1 / 2) / 3,
        "f1_macro": (1 / 2 + 4 / 5 + 2 / 3) / 3,
        "f1_micro": 4 / 6,
        "f1_weighted": (1 / 2 + 4 / 5 + 2 / 3) / 3,
        "mcc": (4 * 6 - 12) / (24 * 22) ** 0.5,
        "auroc": (7 / 8 + 7 / 8 + 6.5 / 8) / 3,
        # bins: .8 right, .7 right, .5 right, and .6 twice wrong and once right
        "ece": (0.2 + 0.3 + 0.5 + 0.8) / 6,
    }
    assert {key: score.value for key, score in scores(six(), resamples=0).items()} == pytest.approx(expected, abs=1e-12)


def test_scores_of_an_order_are_there_only_where_classes_have_one() -> None:
    plain = six()
    ordered = replace(plain, ordered=True)
    extra = {key: score.value for key, score in scores(ordered, resamples=0).items() if key not in scores(plain, resamples=0)}
    # truth 0 0 1 1 2 2, answers 0 1 1 1 2 0: off by 0 1 0 0 0 2, in squares 5; by chance 10 + 7 - 2 * 6 * 5 / 6
    assert extra == pytest.approx({"mae": 3 / 6, "qwk": 1 - 5 / 7})
    assert ordered.select(np.arange(6) < 3).ordered and ordered.select(np.arange(6) < 3).merge([]).ordered


def test_auroc_leaves_out_classes_that_never_occur() -> None:
    answered = six()
    wider_NC = np.concatenate([answered.probabilities_NC, np.zeros((6, 1))], axis=1)
    wider = Answered(answered.ids_N, wider_NC, answered.truth, (*answered.labels, "never"))
    assert scores(wider, keys=["auroc"], resamples=0) == scores(answered, keys=["auroc"], resamples=0)


def test_multi_label_accuracy_is_exact_match() -> None:
    probabilities_NC = np.array([[0.9, 0.5], [0.2, 0.7], [0.4, 0.1]])
    answered = Answered(np.arange(3), probabilities_NC, np.array([[1, 1], [1, 1], [0, 0]]), ("a", "b"), multi_label=True)
    assert scores(answered, keys=["accuracy"], resamples=0)["accuracy"].value == pytest.approx(2 / 3)
