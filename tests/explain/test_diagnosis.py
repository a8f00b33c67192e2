"""Each fault, planted in a made-up run, is found; a healthy run is called healthy and nothing else."""

from __future__ import annotations

import shlex
from typing import Any

import numpy as np
import pytest
from made_runs import INTENTS, data, evaluation, metrics, recipe, score, ticks, with_validation

from luthier.core import yaml
from luthier.explain.diagnosis import diagnose
from luthier.explain.finding import Finding

GOOD = metrics(num_rows=2000)


def found(steps: list[dict[str, Any]], *, sheet: dict[str, Any] | None = None, **given: Any) -> dict[str, Finding]:
    given = {"recipe": recipe(), "metrics": GOOD, "data": data(INTENTS)} | given
    return {finding.kind: finding for finding in diagnose(steps, evaluation=sheet or evaluation(INTENTS), **given)}


def spiked(steps: list[dict[str, Any]], at: list[int], height: float) -> list[dict[str, Any]]:
    for index in at:
        steps[index]["loss"] = height
    return steps


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_steps", [60, 300, 4000])
@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_healthy_is_healthy_and_nothing_else(seed: int, num_steps: int, noise: float) -> None:
    assert list(found(ticks(num_steps, noise=noise, seed=seed))) == ["healthy"]


def test_healthy_with_validation() -> None:
    steps = with_validation(ticks(), [1.0, 0.6, 0.45, 0.44], [0.7, 0.85, 0.9, 0.91])
    assert list(found(steps)) == ["healthy"]


def test_a_loss_that_compares_rows_has_no_known_floor() -> None:
    steps = ticks(start=8.4, end=5.5)
    assert "underfitting" in found(steps)
    assert "underfitting" not in found(steps, metrics=GOOD | {"rows_meet": True})


def test_two_heavy_batches_are_no_fault() -> None:
    assert list(found(spiked(ticks(), [150, 240], 4.0))) == ["healthy"]


@pytest.mark.parametrize(
    ("steps", "change"),
    [
        pytest.param(ticks(start=2.5, end=6.0, speed=3), "optim.learning_rate=6.7e-05", id="divergence"),
        pytest.param([*ticks(80), *({**tick, "skipped": "loss"} for tick in ticks(100)[80:])], "optim.learning_rate=6.7e-05", id="skipped"),
        pytest.param([*ticks(80), {"step": 81, "epoch": 1, "loss": None}], "optim.learning_rate=6.7e-05", id="loss is not a number"),
        pytest.param(spiked(ticks(), list(range(60, 300, 30)), 6.0), "optim.learning_rate=0.0001", id="spikes"),
        pytest.param(spiked(ticks(), list(range(150, 190)), 2.2), "optim.learning_rate=0.0001", id="climb"),
    ],
)
def test_rate_too_high(steps: list[dict[str, Any]], change: str) -> None:
    findings = found(steps)
    assert list(findings) == ["rate-too-high"]
    assert findings["rate-too-high"].change == change


def test_flat_from_a_high_rate_and_from_a_low_one() -> None:
    high = recipe(optim={"type": "adamw", "learning_rate": 2e-3})
    low = recipe(optim={"type": "adamw", "learning_rate": 1e-6})
    flat = ticks(start=2.5, end=2.5)
    assert found(flat, recipe=high)["rate-too-high"].change == "optim.learning_rate=0.0004"
    assert found(flat, recipe=low)["rate-too-low"].change == "optim.learning_rate=5e-06"


@pytest.mark.parametrize("speed", [0.2, 1.0])
def test_rate_too_low(speed: float) -> None:
    steps = ticks(end=2.5 - 0.3 / (1 - np.exp(-speed)), speed=speed, noise=0.02)
    findings = found(steps)
    assert list(findings) == ["rate-too-low"]
    assert findings["rate-too-low"].change == "optim.learning_rate=0.0008"


def test_rate_is_taken_from_the_ticks_where_the_recipe_left_it_open() -> None:
    steps = ticks(end=2.5 - 0.3 / (1 - np.exp(-0.2)), speed=0.2, noise=0.02, rate=1e-5)
    assert found(steps, recipe=recipe(optim={"type": "adamw"}))["rate-too-low"].change == "optim.learning_rate=4e-05"


def test_the_rate_of_the_head_goes_with_the_other() -> None:
    both = recipe(optim={"type": "adamw", "learning_rate": 2e-4, "head_learning_rate": 8e-4})
    finding = found(ticks(end=6.0), recipe=both)["rate-too-high"]
    assert finding.change == "optim.learning_rate=6.7e-05 optim.head_learning_rate=0.00027"
    assert finding.hint == "both a third of now"


def test_too_few_steps() -> None:
    steps = ticks(end=0.1, speed=1.2, noise=0.03)
    findings = found(steps)
    assert list(findings) == ["too-few-steps"]
    assert findings["too-few-steps"].change == "training.epochs=6"
    capped = recipe(training={"max_steps": 300, "epochs": 3})
    assert found(steps, recipe=capped)["too-few-steps"].change == "training.max_steps=600"


def test_underfitting_changes_what_holds_the_model_back() -> None:
    steps = ticks(end=1.6, speed=12)
    dropout = recipe(model={"path": "m", "head": {"dropout": 0.5}})
    lora = recipe(adapter={"type": "lora", "r": 4})
    assert found(steps)["underfitting"].change == "optim.learning_rate=0.0004"
    assert found(steps, recipe=dropout)["underfitting"].change == "model.head.dropout=0.1"
    assert found(steps, recipe=lora)["underfitting"].change == "adapter.r=8"


def test_label_smoothing_is_not_underfitting() -> None:
    labels = [str(number) for number in range(77)]
    smooth = recipe(loss={"type": "cross-entropy", "label_smoothing": 0.4})
    steps = ticks(start=4.34, end=2.45, speed=8, noise=0.01)
    assert "underfitting" in found(steps, data=data(labels))
    assert list(found(steps, data=data(labels), recipe=smooth)) == ["healthy"]


def test_overfitting() -> None:
    steps = with_validation(ticks(end=0.01), [0.6, 0.4, 0.5, 0.6, 0.7, 0.8], [0.8, 0.9, 0.9, 0.89, 0.9, 0.89])
    finding = found(steps)["overfitting"]
    assert finding.change == "training.epochs=1"
    assert "step 100" in finding.evidence


def test_overfitting_within_the_first_epoch_asks_for_dropout() -> None:
    short = recipe(training={"epochs": 1, "seed": 0})
    steps = with_validation(ticks(end=0.01), [0.6, 0.4, 0.5, 0.6, 0.7, 0.8], [0.8, 0.9, 0.9, 0.89, 0.9, 0.89])
    assert found(steps, recipe=short)["overfitting"].change == "model.head.dropout=0.2"


def test_a_rising_loss_is_no_overfitting_while_the_score_gains_or_where_the_run_stopped_for_it() -> None:
    losses, gaining = [0.6, 0.4, 0.5, 0.6], [0.8, 0.88, 0.9, 0.92]
    assert list(found(with_validation(ticks(end=0.01), losses, gaining))) == ["healthy"]
    stopped = {**GOOD, "stopped_early": True, "best_step": 150}
    assert list(found(with_validation(ticks(end=0.01), losses, [0.8, 0.9, 0.9, 0.9]), metrics=stopped)) == ["healthy"]


def test_overfitting_that_nobody_could_see() -> None:
    finding = found(ticks(end=0.01), metrics=metrics(0.7, 2000))["overfitting-unseen"]
    assert finding.change == "data.split.validation=0.1"


def test_a_slice_that_tuning_made_worse() -> None:
    sheet = evaluation(INTENTS)
    sheet["test"]["slices"]["en"]["accuracy"] = {"value": 0.63, "low": 0.56, "high": 0.70}
    finding = found(ticks(), sheet=sheet)["worse-than-untuned"]
    assert "“en”: 83.0" in finding.evidence and "zh" not in finding.evidence
    assert finding.change == "optim.learning_rate=0.0001"


def test_unbalanced_classes_that_hurt() -> None:
    rows = data(INTENTS)
    rows["splits"]["train"]["classes"] |= {"refund": 5, "greeting": 900}
    hurt = metrics(0.95, 2000)
    hurt["scores"]["test"]["f1_macro"] = score(0.8, 2000)
    finding = found(ticks(), data=rows, metrics=hurt)["unbalanced-classes"]
    assert finding.change == "loss.class_weights=balanced"
    assert "refund" in finding.says
    assert list(found(ticks(), data=rows)) == ["healthy"]


def test_truncated_rows() -> None:
    rows = data(INTENTS)
    rows["tokens"] |= {"truncated": {"train": 300, "test": 100}, "max_length": 64}
    assert found(ticks(), data=rows)["truncated-rows"].change == "data.long_texts=windows"
    short = recipe(data={"max_length": 64})
    assert found(ticks(), data=rows, recipe=short)["truncated-rows"].change == "data.max_length=128"


def test_unknown_tokens_names_the_worst_slice() -> None:
    rows = data(INTENTS)
    rows["tokens"]["by_slice"]["zh"] = 0.65
    off = recipe(model={"path": "m", "extend_vocabulary": False})
    assert "zh" in found(ticks(), data=rows)["unknown-tokens"].evidence
    assert found(ticks(), data=rows, recipe=off)["unknown-tokens"].change == "model.extend_vocabulary=true"


@pytest.mark.parametrize(("shift", "smoothing", "change"), [(0.2, 0.0, "loss.label_smoothing=0.1"), (-0.2, 0.1, "loss.label_smoothing=0")])
def test_poor_calibration(shift: float, smoothing: float, change: str) -> None:
    sheet = evaluation(INTENTS, num_rows=2000)
    for item in sheet["test"]["reliability"]:
        if item["count"]:
            item["confidence"] = min(max(item["accuracy"] + shift, 0), 1)
    off = metrics(num_rows=2000)
    off["scores"]["test"]["ece"] = {"value": 0.18, "low": 0.15, "high": 0.2}
    loss = recipe(loss={"type": "cross-entropy", "label_smoothing": smoothing})
    assert found(ticks(), sheet=sheet, metrics=off, recipe=loss)["poor-calibration"].change == change


def test_small_test() -> None:
    finding = found(ticks(), sheet=evaluation(INTENTS, num_rows=60), metrics=metrics(num_rows=60))["small-test"]
    assert finding.change is None and "500 rows" in finding.hint.replace("\u00a0", " ")
    split = recipe(data={"split": {"test": 0.1}})
    assert found(ticks(), metrics=metrics(num_rows=60), recipe=split)["small-test"].change == "data.split.test=0.3"


def test_nothing_to_go_by_is_said() -> None:
    assert [finding.kind for finding in diagnose([], {}, {}, {})] == ["unknown"]
    assert [finding.kind for finding in diagnose(ticks(3), {}, {}, {})] == ["unknown"]


CHANGES = [
    "optim.learning_rate=5e-05 optim.head_learning_rate=0.0002", "training.epochs=6", "training.max_steps=600", "model.head.dropout=0.2",
    "data.split.validation=0.1",
    "data.split.test=0.3", "loss=cross-entropy loss.label_smoothing=0.1", "loss=cross-entropy loss.class_weights=balanced",
    "loss=binary-cross-entropy loss.class_weights=balanced", "data.max_length=128", "data.long_texts=windows",
    "model.extend_vocabulary=true", "model.path=bert-base-multilingual-cased",
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_one_that_a_recipe_takes(change: str) -> None:
    from luthier.recipe import resolve

    pairs = [part.split("=", 1) for part in shlex.split(change)]
    resolve({"data": "train.csv"}, [(key, yaml.scalar(value)) for key, value in pairs])
