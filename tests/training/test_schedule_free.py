"""Two sets of weights: trained with one, measured and saved with the other, and exact after a resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import checkpoint_weights, steps_of, train_until, weights_hash
from safetensors.torch import load_file

from luthier import flow
from luthier.core import files
from luthier.core.errors import ConfigError
from luthier.recipe import resolve

MakeRecipe = Callable[..., dict[str, Any]]
CHANGES = {
    "optim": {"type": "schedule-free", "learning_rate": 1e-2, "head_learning_rate": 1e-2},
    "schedule": {"type": "constant", "warmup": "2 steps"},
    "training.max_steps": 8,
    "training.save_every": "2 steps",
    "training.keep_checkpoints": 9,
    "evaluate.baseline": False,
}
SCORED = {**CHANGES, "training.eval_every": "2 steps", "data.split": {"validation": 0.2, "test": 0.2}}


def average_at(run: Path, step: int) -> dict[str, torch.Tensor]:
    """The average that a checkpoint implies: y + (1 - 1 / 0.9) * (z - y), with z from the optimiser's file."""
    trained, kept = checkpoint_weights(run, step), load_file(run / "checkpoints" / f"step-{step:08d}" / "optimiser.safetensors")
    zs = {tuple(tensor.shape): [] for tensor in trained.values()}
    for key, tensor in kept.items():
        if key.endswith("/z"):
            zs[tuple(tensor.shape)].append(tensor)
    return {name: y + (1 - 1 / 0.9) * (min(zs[tuple(y.shape)], key=lambda z: float((z - y).norm())) - y) for name, y in trained.items()}


def test_the_saved_model_is_the_average_of_the_best_step(recipe: MakeRecipe) -> None:
    run = flow.train(recipe("run", SCORED | {"training.best_metric": "loss", "optim": {**CHANGES["optim"], "learning_rate": 0.05}})).path
    metrics = files.read_json(run / "metrics.json")
    best = next(step for step in steps_of(run) if step["step"] == metrics["best_step"])
    assert metrics["scores"]["validation"]["accuracy"]["value"] == pytest.approx(best["scores"]["validation"]["accuracy"])
    found, expected = load_file(run / "model" / "model.safetensors"), average_at(run, metrics["best_step"])
    for name in ("bert.encoder.layer.0.output.dense.weight", "classifier.weight"):
        assert torch.allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(found[name], checkpoint_weights(run, metrics["best_step"])[name], atol=1e-6)


def test_scores_change_nothing_of_the_training_and_a_resume_is_exact(recipe: MakeRecipe) -> None:
    whole = flow.train(recipe("whole", SCORED)).path
    run = train_until(recipe("run", SCORED), 5)
    flow.resume(run)
    assert steps_of(run) == steps_of(whole) and weights_hash(run) == weights_hash(whole)
    silent = flow.train(recipe("silent", SCORED | {"training.eval_every": "8 steps"})).path
    assert [step["loss"] for step in steps_of(silent)] == [step["loss"] for step in steps_of(whole)]


def test_a_layer_that_comes_late_begins_its_own_average(recipe: MakeRecipe) -> None:
    run = flow.train(recipe("run", CHANGES | {"unfreeze": {"type": "gradual", "every": "2 steps"}})).path
    name = "bert.encoder.layer.0.output.dense.weight"
    first, start = checkpoint_weights(run, 6)[name], checkpoint_weights(run, 4)[name]
    assert not torch.equal(first, start)
    steps = files.read_json(run / "checkpoints" / "step-00000008" / "optimiser.json")["state"]
    assert {values["step"] for values in steps.values()} == {2, 4, 6, 8}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"schedule": "linear"},
            "schedule.type: schedule-free averages the weights in place of a falling rate, and linear is not constant",
        ),
        ({"training.ema": 0.9}, "training.ema: schedule-free averages the weights itself"),
        ({"training.swa": {}}, "training.swa: schedule-free averages the weights itself"),
        ({"training.l2_sp": 1.0}, "training.l2_sp: the average of schedule-free would not follow the pull"),
        ({"training.mixout": 0.1}, "training.mixout: the average of schedule-free would not follow the mixing"),
        ({"training.parallel": "fsdp2"}, "optim.type: schedule-free exchanges whole weights"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(None, {"optim.type": "schedule-free", "schedule.type": "constant", **changes})
    assert said in str(caught.value)
