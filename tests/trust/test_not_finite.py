"""NaN and infinity in a loss or a gradient: the weights never see them, the log says so, and the run goes on or stops for a reason."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import checkpoint_weights, events_of, same_weights, steps_of, weights_hash
from safetensors.torch import load_file
from torch import Tensor

from luthier import flow
from luthier.core import files
from luthier.core.errors import RunStopped
from luthier.flow import Training
from luthier.losses.cross_entropy import CrossEntropy
from luthier.stages.running.train import Trainer
from luthier.training import checkpoint
from luthier.training.step_rules.accumulate import Accumulate

MakeRecipe = Callable[..., dict[str, Any]]
VALUES = (float("nan"), float("inf"), -float("inf"))
PLACES = ("loss", "gradient")
CHANGES = {
    "training.max_steps": 12,
    "training.save_every": "3 steps",
    "training.keep_checkpoints": 100,
    "training.batch_size": 4,
    "training.gradient_accumulation_steps": 2,
    "evaluate.baseline": False,
}


@contextmanager
def fault(place: str, value: float, steps: set[int]) -> Iterator[list[int]]:
    """Put a value into the loss of one row, or into one number of the gradient, at some steps; yields the steps at which it was put."""
    with pytest.MonkeyPatch.context() as patched:
        gradient, per_target, step, done = Accumulate.gradient, CrossEntropy.per_target, itertools.count(1), list[int]()
        now = [0]

        def hurt_gradient(self: Any, work: Any, parts: Any, *given: Any) -> dict[str, float]:
            now[0] = next(step)
            means = gradient(self, work, parts, *given)
            if place == "gradient" and now[0] in steps:
                chosen = random.Random(now[0]).choice([p for p in parts["model"].module.parameters() if p.grad is not None])
                chosen.grad.view(-1)[-1] = value
                done.append(now[0])
            return means

        def hurt_loss(self: CrossEntropy, logits_BC: Tensor, targets: Tensor) -> Tensor:
            found = per_target(self, logits_BC, targets)
            if place == "loss" and now[0] in steps and now[0] not in done:
                found = found * torch.tensor([value] + [1.0] * (len(found) - 1))
                done.append(now[0])
            return found

        patched.setattr(Accumulate, "gradient", hurt_gradient)
        patched.setattr(CrossEntropy, "per_target", hurt_loss)
        yield done


@contextmanager
def watched() -> Iterator[list[bool]]:
    """After each step, look whether every weight and every number of the optimiser is finite."""
    with pytest.MonkeyPatch.context() as patched:
        ticks, finite = Trainer.ticks, list[bool]()

        def watching(self: Trainer) -> Iterator[Any]:
            for tick in ticks(self):
                weights = [p for part in self.bench.parts.values() for p in part.module.parameters()]
                moments = [v for values in self.bench.saved.optimiser.state.values() for v in values.values() if isinstance(v, Tensor)]
                finite.append(bool(moments or tick.skipped) and all(bool(t.isfinite().all()) for t in [*weights, *moments]))
                yield tick

        patched.setattr(Trainer, "ticks", watching)
        yield finite


def test_a_bad_step_never_reaches_the_weights(recipe: MakeRecipe, scale: Callable[[int, int], int], proof: Callable[..., None]) -> None:
    dice, num_trials, kept = random.Random(0), scale(8, 50), 0
    kinds = itertools.cycle(itertools.product(PLACES, VALUES))
    for trial, (place, value) in zip(range(num_trials), kinds, strict=False):
        step = dice.randint(1, 12)
        training = Training.begin(recipe(f"run-{trial}", CHANGES))
        with fault(place, value, {step}) as done, watched() as finite:
            found = list(training)
        run = training.run.path
        assert done == [step], "the fault must have happened"
        reasons = {line["step"]: line["skipped"] for line in steps_of(run) if "skipped" in line}
        is_said = list(reasons) == [step] and reason_fits(reasons[step], place, value)
        goes_on = [tick.step for tick in found] == list(range(1, 13)) and (run / "metrics.json").is_file()
        if is_said and goes_on and len(finite) == 12 and all(finite) and is_finite(run):
            kept += 1
        else:
            print(trial, place, value, step, reasons, goes_on, finite)
    proof(
        item="10",
        promise="NaN or infinity in the loss of one row or in one number of the gradient: weights and optimiser stay finite after every "
        "step, the log says at which step and why, and the run goes on",
        asked="50 of 50 steps",
        reached=f"{kept} of {num_trials}",
        ok=kept == num_trials,
    )


def reason_fits(reason: str, place: str, value: float) -> bool:
    """The loss is named where it is not finite; else the norm of the gradient."""
    expected = "nan" if math.isnan(value) else "inf"
    return ("the loss is" if place == "loss" else "the gradient norm is") in reason and expected in reason


def is_finite(run: Path) -> bool:
    """Whether the model and every checkpoint hold finite numbers only."""
    saved = [run / "model" / "model.safetensors", *(run / "checkpoints").glob("step-*/[mo]*.safetensors")]
    return len(saved) > 4 and all(bool(t.isfinite().all()) for file in saved for t in load_file(file).values() if t.is_floating_point())


def test_three_bad_steps_in_a_row_roll_back_and_stop(
    recipe: MakeRecipe, scale: Callable[[int, int], int], proof: Callable[..., None]
) -> None:
    dice, num_trials, right = random.Random(1), scale(2, 20), 0
    kinds = itertools.cycle(itertools.product(PLACES, VALUES))
    for trial, (place, value) in zip(range(num_trials), kinds, strict=False):
        first = dice.randint(4, 10)
        training = Training.begin(recipe(f"run-{trial}", CHANGES))
        with fault(place, value, {first, first + 1, first + 2}) as done, watched() as finite, back_in_memory() as weights:
            with pytest.raises(RunStopped, match="diverged") as caught:
                list(training)
        run, newest = training.run.path, checkpoint.newest_valid(training.run.checkpoints)[0]
        assert done == [first, first + 1, first + 2] and newest is not None
        skipped = [line["step"] for line in steps_of(run) if "skipped" in line]
        (event,) = events_of(run, "diverged")
        is_said = skipped == done and event["back_to"] == newest.name and event["reason"]
        is_back = same_weights(weights[-1], checkpoint_weights(run, checkpoint.step_of(newest)))
        stopped = caught.value.exit_code == 3 and not (run / "model").exists() and all(finite)
        flow.resume(run)
        finished = files.read_json(run / "metrics.json")["steps"] == 12 and steps_of(run)[-1]["step"] == 12 and is_finite(run)
        if is_said and is_back and stopped and finished:
            right += 1
        else:
            print(trial, place, value, first, skipped, event, is_back, stopped, finished)
    proof(
        item="10",
        promise="three in a row: back to the weights of the last checkpoint, exit code 3; a resume without the fault finishes",
        asked="20 of 20",
        reached=f"{right} of {num_trials}",
        ok=right == num_trials,
    )


@contextmanager
def back_in_memory() -> Iterator[list[dict[str, Tensor]]]:
    """The model's weights in memory, as they are each time that weights have been put back."""
    with pytest.MonkeyPatch.context() as patched:
        load_parts, seen = checkpoint.load_parts, list[dict[str, Tensor]]()

        def loading(folder: Path, parts: Any) -> None:
            load_parts(folder, parts)
            state = parts["model"].module.state_dict()
            seen.append({name: tensor.clone() for name, tensor in state.items() if not name.endswith("word_embeddings.decay")})

        patched.setattr(checkpoint, "load_parts", loading)
        yield seen


def test_without_a_fault_the_hooks_change_nothing(recipe: MakeRecipe) -> None:
    plain = flow.train(recipe("plain", CHANGES)).path
    with fault("gradient", float("nan"), set()) as done, watched() as finite:
        hooked = flow.train(recipe("hooked", CHANGES)).path
    assert not done and len(finite) == 12 and weights_hash(hooked) == weights_hash(plain)


def test_a_fault_that_is_not_caught_would_be_seen(recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: with the look at loss and norm switched off, the same fault is in the weights one step later."""
    monkeypatch.setattr("luthier.training.loop._not_finite", lambda loss, norm: None)
    with fault("gradient", float("nan"), {5}), watched() as finite:
        for tick in Training.begin(recipe("run", CHANGES)):
            if tick.step == 6:
                break
    assert finite[:4] == [True] * 4 and not any(finite[4:])
