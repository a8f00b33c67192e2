"""What happens around the steps: evaluation, the best weights, early stopping, divergence, rotation, a full disk."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import checkpoint_weights, checkpoints_of, events_of, same_weights, steps_of, ticks, train_until, weights_hash
from safetensors.torch import load_file
from torch import Tensor

from luthier import flow
from luthier.core import files, machine
from luthier.core.errors import RunStopped, SetupError
from luthier.flow import Training
from luthier.losses.cross_entropy import CrossEntropy
from luthier.training import checkpoint, patience
from luthier.training.checkpoint import saved
from luthier.training.checkpoint.manifest import seal
from luthier.training.fit import MOST_SKIPS

MakeRecipe = Callable[..., dict[str, Any]]
EVALUATED = {
    "data.split": {"validation": 0.2, "test": 0.2},
    "training.eval_every": "2steps",
    "training.save_every": "2steps",
    "training.max_steps": 12,
    "evaluate.baseline": False,
}


def scripted(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> None:
    """Let validations have these scores, one after the other."""
    script: Iterator[float] = iter(scores)
    monkeypatch.setattr("luthier.stages.running.train.quick_scores", lambda work, outputs: {"accuracy": next(script), "loss": 1.0})


def broken_loss(monkeypatch: pytest.MonkeyPatch, calls: Callable[[int], bool], value: float) -> None:
    """Let the loss be `value` in the calls that `calls` picks, counted from 1."""
    right, count = CrossEntropy.per_target, [0]

    def per_target(self: CrossEntropy, logits_BC: Tensor, targets: Tensor) -> Tensor:
        count[0] += 1
        factor = value if calls(count[0]) else 1.0
        return right(self, logits_BC, targets) * factor

    monkeypatch.setattr(CrossEntropy, "per_target", per_target)


def test_scores_come_with_the_ticks_that_were_evaluated(recipe: MakeRecipe) -> None:
    found = ticks(recipe("run", {**EVALUATED, "training.eval_every": "5steps"}))
    assert [tick.step for tick in found if tick.scores] == [5, 10, 12]
    scores = found[-1].scores
    assert scores is not None and {"accuracy", "loss", "f1_macro"} <= set(scores["validation"])


def test_without_validation_rows_nothing_is_evaluated_and_the_last_weights_are_kept(recipe: MakeRecipe) -> None:
    run = flow.train(recipe("run", {"training.max_steps": 6})).path
    assert not any("scores" in step for step in steps_of(run))
    assert files.read_json(run / "metrics.json")["best_step"] is None
    assert same_weights(load_file(run / "model" / "model.safetensors"), checkpoint_weights(run, 6))


@pytest.mark.parametrize(
    ("scores", "best"), [([0.1, 0.2, 0.9, 0.3, 0.9, 0.1], 6), ([0.9, 0.1, 0.1, 0.1, 0.1, 0.1], 2)], ids=["middle", "first"]
)
def test_the_best_weights_are_kept(scores: list[float], best: int, recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, scores)
    run = flow.train(recipe("run", EVALUATED)).path
    assert files.read_json(run / "metrics.json")["best_step"] == best
    assert checkpoints_of(run) == sorted({best, 10, 12}), "the best and the last two stay"
    assert same_weights(load_file(run / "model" / "model.safetensors"), checkpoint_weights(run, best))
    assert not same_weights(checkpoint_weights(run, best), checkpoint_weights(run, 12))
    assert [step["step"] for step in steps_of(run) if step.get("best")][-1] == best


def test_a_score_that_is_better_when_smaller_picks_the_smallest(recipe: MakeRecipe) -> None:
    run = flow.train(recipe("run", {**EVALUATED, "training.best_metric": "loss"})).path
    losses = {step["step"]: step["scores"]["validation"]["loss"] for step in steps_of(run) if "scores" in step}
    assert len(losses) == 6
    assert files.read_json(run / "metrics.json")["best_step"] == min(losses, key=losses.__getitem__)


@pytest.mark.parametrize(
    ("scores", "stopping", "last"),
    [
        ([0.5, 0.4, 0.3, 0.9], {"patience": 2}, 6),
        ([0.5, 0.4, 0.6, 0.5, 0.5, 0.9], {"patience": 2}, 10),
        ([0.5, 0.51, 0.52, 0.9], {"patience": 2, "min_delta": 0.1}, 6),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], {"patience": 1}, 12),
    ],
    ids=["at once", "after a gain", "gains too small", "never"],
)
def test_early_stopping(
    scores: list[float], stopping: dict[str, Any], last: int, recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, scores)
    run = flow.train(recipe("run", {**EVALUATED, "training.early_stopping": stopping})).path
    metrics = files.read_json(run / "metrics.json")
    assert metrics["steps"] == last == steps_of(run)[-1]["step"]
    assert metrics["stopped_early"] == (last < 12)
    assert last in checkpoints_of(run)


def test_early_stopping_counts_on_after_a_resume(recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [0.5, 0.4, 0.3])
    run = train_until(recipe("run", {**EVALUATED, "training.early_stopping": {"patience": 2}}), 4)
    flow.resume(run)
    metrics = files.read_json(run / "metrics.json")
    assert (metrics["steps"], metrics["best_step"], metrics["stopped_early"]) == (6, 2, True)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_step_is_skipped_and_said_and_training_goes_on(value: float, recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_loss(monkeypatch, lambda call: call == 4, value)
    training = Training.begin(recipe("run", {"training.max_steps": 8, "training.save_every": "1step", "training.keep_checkpoints": 20}))
    found = list(training)
    run = training.run.path
    assert [tick.step for tick in found if tick.skipped] == [4] and "loss" in str(found[3].skipped)
    assert same_weights(checkpoint_weights(run, 3), checkpoint_weights(run, 4)), "the weights must not move"
    assert not same_weights(checkpoint_weights(run, 4), checkpoint_weights(run, 5))
    assert all(torch.isfinite(tensor).all() for tensor in load_file(run / "model" / "model.safetensors").values())
    moments = load_file(run / "checkpoints" / "step-00000004" / "optimiser.safetensors")
    before = load_file(run / "checkpoints" / "step-00000003" / "optimiser.safetensors")
    assert same_weights(moments, before), "nor the optimiser's memory"
    assert [line["skipped"] for line in steps_of(run) if "skipped" in line] == [found[3].skipped]


def test_three_bad_steps_in_a_row_roll_back_and_stop_the_run(recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_loss(monkeypatch, lambda call: call > 5, float("nan"))
    training = Training.begin(recipe("run", {"training.max_steps": 20, "training.save_every": "2steps"}))
    with pytest.raises(RunStopped, match="diverged.*third time in a row") as caught:
        list(training)
    run = training.run.path
    assert caught.value.exit_code == 3 and "learning_rate" in str(caught.value.fix)
    steps = steps_of(run)
    assert [step["step"] for step in steps if "skipped" in step] == [6, 7, 8] and len(steps) == 5 + MOST_SKIPS
    assert len(events_of(run, "diverged")) == 1
    assert not (run / "model").exists() and not (run / "metrics.json").exists()
    assert checkpoints_of(run)
    for step in checkpoints_of(run):
        assert all(torch.isfinite(tensor).all() for tensor in checkpoint_weights(run, step).values())


def test_two_bad_steps_and_a_good_one_do_not_stop_the_run(recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_loss(monkeypatch, lambda call: call in (2, 3, 5, 6), float("nan"))
    found = ticks(recipe("run", {"training.max_steps": 8}))
    assert [tick.step for tick in found if tick.skipped] == [2, 3, 5, 6] and len(found) == 8


def test_long_gradients_are_shortened(recipe: MakeRecipe) -> None:
    plain = {
        "model.head": {"start": "zero"},
        "training.max_steps": 1,
        "optim": {"type": "sgd", "learning_rate": 1.0, "head_learning_rate": 1.0, "momentum": 0, "weight_decay": 0},
    }
    moved = []
    for name, longest in (("free", 1e9), ("short", 1e-3)):
        training = Training.begin(
            recipe(name, {**plain, "schedule": {"type": "constant", "warmup": "0 steps"}, "training.max_grad_norm": longest})
        )
        (tick,) = list(training)
        head = load_file(training.run.path / "model" / "model.safetensors")["classifier.weight"]
        moved.append((tick.grad_norm, float(head.norm())))
    assert moved[0][0] == moved[1][0] > 0.1, "the tick reports the norm before clipping"
    assert moved[1][1] <= 1e-3 * 1.001 < moved[0][1]


def test_the_ticks_say_what_was_done(recipe: MakeRecipe) -> None:
    training = Training.begin(recipe("run", {"training.max_steps": 14, "training.save_every": "5steps", "data.split": {"test": 0.25}}))
    found = list(training)
    rows = files.read_json(training.run.path / "metrics.json")
    assert [tick.step for tick in found] == list(range(1, 15)) and {tick.total_steps for tick in found} == {14}
    sizes = [later.samples - earlier for later, earlier in zip(found, [0, *(tick.samples for tick in found)], strict=False)]
    assert sorted(sizes[:12]) == [2] + [8] * 11 and found[11].epoch == 1.0, "90 rows are 11 batches of 8 and one of 2"
    assert all(later.tokens > earlier.tokens for earlier, later in zip(found, found[1:], strict=False))
    assert all(tick.seconds > 0 and tick.tokens_per_second > 0 and tick.memory_bytes > 2**20 for tick in found)
    assert [tick.saved for tick in found if tick.saved] == ["step-00000005", "step-00000010", "step-00000014"]
    assert rows["training_seconds"] >= round(sum(tick.seconds for tick in found), 3)
    assert rows["samples_per_second"] == pytest.approx(found[-1].samples / rows["training_seconds"], rel=0.01)
    assert rows["tokens_per_second"] == pytest.approx(found[-1].tokens / rows["training_seconds"], rel=0.01)


def test_the_log_is_the_stream_of_ticks(tiny_run: Path) -> None:
    lines = files.read_json_lines(tiny_run / "events.jsonl")
    assert len(lines) == 40 and [line["step"] for line in lines] == list(range(1, 41))
    assert sum(line["loss"] for line in lines[-5:]) < 0.7 * sum(line["loss"] for line in lines[:5])


@settings(deadline=None)
@given(
    steps=st.sets(st.integers(1, 50), min_size=1, max_size=12),
    keep=st.integers(1, 6),
    best=st.one_of(st.none(), st.integers(0, 11)),
)
def test_rotation_never_takes_the_best_or_the_last_two(
    steps: set[int], keep: int, best: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root, ordered = tmp_path_factory.mktemp("checkpoints"), sorted(steps)
    best_step = None if best is None else ordered[best % len(ordered)]
    for step in ordered:
        (root / checkpoint.name_of(step)).mkdir()
        seal(root / checkpoint.name_of(step), step)
    checkpoint.rotate(root, keep=keep, best=best_step)
    left = [checkpoint.step_of(folder) for folder in checkpoint.all_checkpoints(root)]
    assert left == [step for step in ordered if step in ordered[-max(keep, 2) :] or step == best_step]
    assert sorted(path.name for path in root.iterdir()) == [checkpoint.name_of(step) for step in left], "nothing else is left lying"


def test_too_little_disk_space_is_said_before_training(recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_disk_bytes", lambda path: 12 * 2**10)
    training = Training.begin(recipe("run"))
    with pytest.raises(SetupError, match="too little disk space to keep checkpoints: 0 MiB are free") as caught:
        list(training)
    assert caught.value.exit_code == 2 and "--output" in str(caught.value.fix)
    assert checkpoints_of(training.run.path) == []


def test_a_disk_that_fills_up_pauses_the_run(recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    changes = {"training.max_steps": 8, "training.save_every": "2steps"}
    uninterrupted = flow.train(recipe("whole", changes)).path
    write, tries = saved._write, [0]

    def full(folder: Path, saved: checkpoint.Saved, others: Any) -> None:
        tries[0] += saved.state.step == 6
        if saved.state.step == 6 and tries[0] < 3:
            assert checkpoints_of(folder.parent.parent) == [2, 4], "older checkpoints stay"
            raise OSError(errno.ENOSPC, "No space left on device")
        write(folder, saved, others)

    monkeypatch.setattr(saved, "_write", full)
    monkeypatch.setattr(patience, "SECONDS_BETWEEN_LOOKS", 0.01)
    with caplog.at_level(logging.WARNING, "luthier"):
        run = flow.train(recipe("run", changes)).path
    assert tries[0] == 3 and not list((run / "checkpoints").glob(".*")), "the parts that were written are taken away"
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and "the run pauses" in said[0] and "going on" in said[1]
    assert weights_hash(run) == weights_hash(uninterrupted) and steps_of(run) == steps_of(uninterrupted)
