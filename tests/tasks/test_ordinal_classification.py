"""Ordinal classification: probabilities from thresholds, the order of the classes, scores of an order, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch.nn import functional

from luthier import flow
from luthier.core import files
from luthier.core.errors import ConfigError, DataError
from luthier.models.head_start import fit_thresholds
from luthier.recipe import resolve
from luthier.serve.predictor import Predictor
from luthier.stages.layout.begin import lay_out
from luthier.tasks.ordinal_classification import class_log_probabilities, require_order

MakeRecipe = Callable[..., dict[str, Any]]
STARS = {"task": "ordinal-classification", "evaluate.baseline": False}


@pytest.fixture
def stars(tmp_path: Path) -> Path:
    return tiny.write_rows(tmp_path / "stars.csv", tiny.tiny_star_rows(200))


# ---- thresholds


def test_two_thresholds_by_hand() -> None:
    # passed with 3/4 and 1/2: below the first 1/4, between 3/4 * 1/2, above 3/4 * 1/2
    logits_BC = torch.tensor([[9.0, np.log(3.0), 0.0]])
    assert class_log_probabilities(logits_BC).exp()[0].tolist() == pytest.approx([1 / 4, 3 / 8, 3 / 8])


def test_probabilities_sum_to_one_and_never_overflow() -> None:
    logits_BC = torch.cat([5 * torch.randn(50, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([[0.0] + [200.0] * 5])])
    found_BC = class_log_probabilities(logits_BC)
    assert torch.isfinite(found_BC).all() and found_BC.exp().sum(1).tolist() == pytest.approx([1.0] * 51, abs=1e-5)


def test_the_loss_is_that_of_corn(recipe: MakeRecipe, stars: Path) -> None:
    """The negative log-probability is the sum, over thresholds that a row comes to, of a yes or no."""
    resolved = resolve(recipe("run", {**STARS, "model.head.dropout": 0.0}, rows=stars))
    laid = lay_out(resolved, flow.prepare(resolved))
    module = laid.parts["model"].module.eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "classifier" in name:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        batch = laid.work.collate([laid.prepared.splits["train"].row(row) for row in range(12)])
        term, logits_BC, labels_B = laid.work.losses(laid.parts, batch)["loss"], module(**batch.inputs).logits, batch.targets["labels"]
    by_hand = 0.0
    for threshold in range(1, logits_BC.shape[1]):
        come = labels_B >= threshold - 1
        passed = (labels_B[come] >= threshold).float()
        by_hand += float(functional.binary_cross_entropy_with_logits(logits_BC[come, threshold], passed, reduction="sum"))
    assert float(term.sum) == pytest.approx(by_hand, rel=1e-5) and float(term.weight) == 12


def test_the_head_starts_from_a_fit_of_each_threshold() -> None:
    rng = np.random.default_rng(0)
    targets_N = np.repeat(np.arange(4), 50)
    features_NH = np.stack([targets_N + 0.1 * rng.standard_normal(200), rng.standard_normal(200), np.ones(200)], axis=1)
    weights_CH, biases_C = fit_thresholds(100 * features_NH, targets_N, 5)
    logits_NC = torch.from_numpy(100 * features_NH @ weights_CH.T + biases_C)
    probabilities_NC = class_log_probabilities(logits_NC).exp().numpy()
    assert (probabilities_NC.argmax(1) == targets_N).mean() > 0.75 and (weights_CH[1:4, 0] > 0).all()
    assert not weights_CH[0].any() and not weights_CH[4].any() and biases_C[4] == pytest.approx(np.log(0.5 / 50.5))


# ---- the order


def test_stars_are_learnt_and_scored_by_how_far_answers_are_off(recipe: MakeRecipe, stars: Path) -> None:
    run = flow.train(recipe("run", {**STARS, "training.max_steps": 60, "data.split": {"validation": 0.2, "test": 0.2}}, rows=stars))
    scores, metrics = files.read_json(run.metrics)["scores"]["test"], files.read_json(run.metrics)
    assert scores["qwk"]["value"] > 0.7 and scores["qwk"]["low"] < scores["qwk"]["value"] < scores["qwk"]["high"]
    assert 0 < scores["mae"]["value"] < 0.8 and metrics["primary_metric"] == "qwk" and metrics["best_step"] is not None
    assert "Quadratic weighted kappa" in run.report.read_text(encoding="utf-8")
    first = files.read_json_lines(run.reference)[0]
    answer = next(iter(Predictor.open(run.path).answer([first["text"]])))
    assert answer.probabilities == pytest.approx(first["probabilities"], abs=1e-5) and sorted(answer.probabilities) == list("12345")


def test_numbers_are_ordered_by_size_and_words_as_listed() -> None:
    require_order(("1", "2", "10"), None)
    require_order(("-1", "0.5", "2"), None)
    require_order(("bad", "fine", "good"), ("bad", "fine", "good"))


@pytest.mark.parametrize(
    ("labels", "listed", "said"),
    [
        (("bad", "fine", "good"), None, "order is not known: bad, fine, good"),
        (("10.5", "9.5"), None, "order is not known"),
        (("bad", "good", "fine"), ("bad", "good"), "does not list: fine"),
    ],
)
def test_an_order_that_nobody_said_is_refused(labels: tuple[str, ...], listed: tuple[str, ...] | None, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        require_order(labels, listed)
    assert caught.value.fix and "data.labels=[" in caught.value.fix


def test_words_without_an_order_are_refused_before_training(recipe: MakeRecipe) -> None:
    with pytest.raises(DataError, match="order is not known: delivery, login, payment"):
        flow.prepare(resolve(recipe("run", STARS)))


# ---- what does not go with it


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss": {"type": "cross-entropy", "r_drop": 1.0}}, "passes a text twice"),
        ({"loss": "arcface"}, "head of cosines"),
        ({"loss": {"type": "cross-entropy", "mixup": {}}}, "does not know it"),
        ({"data.label_separator": "|"}, "one class of an order"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], said: str, recipe: MakeRecipe, stars: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        resolved = resolve(recipe("run", {**STARS, **changes}, rows=stars))
        lay_out(resolved, flow.prepare(resolved))


def test_scores_of_an_order_are_unknown_to_other_tasks(recipe: MakeRecipe) -> None:
    with pytest.raises(ConfigError, match="unknown score 'qwk'"):
        resolve(recipe("run", {"evaluate.metrics": ["qwk"]}))
    assert resolve(recipe("run", {**STARS, "evaluate.metrics": ["qwk"]})).evaluate.metrics == ("qwk",)


# ---- adapters, evaluation


def test_an_adapter_answers_as_it_was_measured(recipe: MakeRecipe, stars: Path) -> None:
    changes = {**STARS, "training.max_steps": 5, "adapter": {"type": "lora", "r": 4}}
    run = flow.train(recipe("run", changes, rows=stars))
    assert json.loads((run.model / "luthier.json").read_text(encoding="utf-8"))["task"] == "ordinal-classification"
    again, stored = flow.evaluate(run.path)["scores"]["test"], files.read_json(run.metrics)["scores"]["test"]
    assert again["qwk"]["value"] == pytest.approx(stored["qwk"]["value"], abs=1e-6)
