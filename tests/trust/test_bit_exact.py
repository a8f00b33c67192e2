"""A resumed run is the uninterrupted one, bit for bit: at 5 points of a run, in 24 settings, and not by accident."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from runs import steps_of

from luthier import flow
from luthier.core import files
from luthier.stages.running import train as stage
from luthier.training import checkpoint
from luthier.training.checkpoint import saved

NUM_TRAINING_ROWS, BATCH_SIZE = 50, 4  # 13 batches: the last one has 2 rows; in windows of 3 the last window has one batch
AUGMENT = [{"type": "word-dropout", "probability": 0.2}, {"type": "word-swap", "probability": 0.2}]
ORDERS = ("by length", "shuffled", "early stopping")
Setting = tuple[int, int, bool, str]  # accumulation, workers of the loader, random augmentation, order
SETTINGS: list[Setting] = list(itertools.product((1, 3), (0, 2), (False, True), ORDERS))
QUICK: list[Setting] = [
    (1, 0, False, "by length"),
    (3, 0, True, "early stopping"),
    (3, 2, True, "shuffled"),
    (1, 2, False, "early stopping"),
]


def steps_per_epoch(accumulate: int) -> int:
    return math.ceil(math.ceil(NUM_TRAINING_ROWS / BATCH_SIZE) / accumulate)


def resume_points(accumulate: int) -> list[int]:
    """In the first epoch, before its smaller last window, at its end, in the second epoch, and in the third."""
    epoch = steps_per_epoch(accumulate)
    return [2, epoch - 1, epoch, epoch + 2, 2 * epoch + 1]


def last_step(accumulate: int) -> int:
    return 2 * steps_per_epoch(accumulate) + 4


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Setting], dict[str, Any]]:
    """Makes the recipe of a setting, on a model with dropout 0.3."""
    folder = tmp_path_factory.mktemp("bit-exact")
    model, rows = tiny.make_tiny_model(folder / "model", dropout=0.3), tiny.tiny_rows(NUM_TRAINING_ROWS + 24)
    train = tiny.write_rows(folder / "train.csv", rows[:NUM_TRAINING_ROWS])
    held_out = tiny.write_rows(folder / "validation.csv", rows[NUM_TRAINING_ROWS:])
    numbers = itertools.count()

    def recipe(setting: Setting) -> dict[str, Any]:
        accumulate, workers, augment, order = setting
        changes: dict[str, Any] = {
            "data.split": {"test": 0},
            "evaluate.baseline": False,
            "optim": {"type": "adamw", "learning_rate": 3e-3, "head_learning_rate": 3e-3},
            "training.batch_size": BATCH_SIZE,
            "training.gradient_accumulation_steps": accumulate,
            "training.group_by_length": order != "shuffled",
            "training.max_steps": last_step(accumulate),
            "training.save_every": "1 steps",
            "training.keep_checkpoints": 1000,
        }
        if workers:
            changes["training.num_workers"] = workers
        if augment:
            changes["data.augment"] = AUGMENT
        if order == "early stopping":
            changes |= stopping_after_all_points(accumulate, held_out)
        return tiny.tiny_recipe(model, train, folder / f"run-{next(numbers)}", changes)

    return recipe


def stopping_after_all_points(accumulate: int, held_out: Path) -> dict[str, Any]:
    """No later score can gain a whole 1.0, so the run stops at the first even step after the last point: if the count is kept."""
    stops_at = 2 * (resume_points(accumulate)[-1] // 2 + 1)
    return {
        "data.validation": str(held_out),
        "training.max_steps": stops_at + 6,
        "training.eval_every": "2 steps",
        "training.early_stopping": {"patience": stops_at // 2 - 1, "min_delta": 1.0},
    }


def fingerprint(run: Path) -> dict[str, str]:
    """The sha256 of everything a run has reached, without clocks: the last checkpoint, the model it leaves, and its log."""
    last = checkpoint.all_checkpoints(run / "checkpoints")[-1]
    state = files.read_json(last / "state.json")
    del state["training"]["seconds"]
    found = {file.name: files.sha256_file(file) for file in last.iterdir() if file.name not in ("state.json", checkpoint.MANIFEST)}
    found["state"] = hashlib.sha256(json.dumps([last.name, state]).encode()).hexdigest()
    found["log"] = hashlib.sha256(json.dumps(ticks_of(run)).encode()).hexdigest()
    found["model/"] = files.sha256_file(run / "model" / "model.safetensors")
    assert {"model.safetensors", "optimiser.safetensors", "optimiser.json", "random.safetensors"} <= found.keys()
    return found


def ticks_of(run: Path) -> list[dict[str, Any]]:
    """The log without what says only how the machine was doing, and where a run was taken up."""
    return [{key: value for key, value in step.items() if key in KEPT_OF_A_TICK} for step in steps_of(run)]


KEPT_OF_A_TICK = {"step", "epoch", "samples", "tokens", "loss", "losses", "grad_norm", "learning_rate", "scores", "skipped", "best"}


def stopped_at(whole: Path, point: int, target: Path) -> Path:
    """A copy of a run as a kill right after the checkpoint of a step leaves it."""
    shutil.copytree(whole, target, ignore=shutil.ignore_patterns("model", "metrics.json", "evaluation.json", "reference.jsonl", "*.html"))
    for folder in checkpoint.all_checkpoints(target / "checkpoints"):
        if checkpoint.step_of(folder) > point:
            shutil.rmtree(folder)
    assert checkpoint.step_of(checkpoint.all_checkpoints(target / "checkpoints")[-1]) == point
    return target


def resumed(whole: Path, point: int, target: Path) -> dict[str, str]:
    """Resume a copy from a point, after a few draws that nobody should notice; returns its fingerprint."""
    run = stopped_at(whole, point, target)
    torch.manual_seed(point * 7919), random.seed(point)
    flow.resume(run)
    assert files.read_json(run / "metrics.json")["resumed_from_step"] == point
    found = fingerprint(run)
    shutil.rmtree(run)
    return found


@pytest.fixture(scope="module")
def settings(scale: Callable[[int, int], int]) -> list[Setting]:
    return QUICK if scale(0, 1) == 0 else SETTINGS


@pytest.fixture(scope="module")
def uninterrupted(make: Callable[[Setting], dict[str, Any]], settings: list[Setting]) -> Iterator[dict[Setting, Path]]:
    """One run of each setting that was never stopped, with a checkpoint at each step."""
    runs = {setting: flow.train(make(setting)).path for setting in settings}
    yield runs
    for run in runs.values():
        shutil.rmtree(run)


def test_the_settings_are_what_they_say(uninterrupted: dict[Setting, Path], scale: Callable[[int, int], int]) -> None:
    assert len(SETTINGS) == 24 and set(QUICK) <= set(SETTINGS)
    logs = {setting: [step["loss"] for step in steps_of(run)] for setting, run in uninterrupted.items()}
    for setting, run in uninterrupted.items():
        accumulate, _, _, order = setting
        points, steps = resume_points(accumulate), steps_of(run)
        assert len(set(points)) == 5 and points[-1] < steps[-1]["step"]
        assert steps[points[1]]["epoch"] == 1.0, "the second point lies right before the last window of an epoch"
        sizes = [later["samples"] - earlier["samples"] for earlier, later in itertools.pairwise([{"samples": 0}, *steps])]
        assert sizes[points[1]] == NUM_TRAINING_ROWS % (BATCH_SIZE * accumulate) or order != "shuffled", "which is smaller"
        metrics = files.read_json(run / "metrics.json")
        assert metrics["stopped_early"] == (order == "early stopping")
    for one, other in itertools.combinations(logs, 2):
        same_numbers = one[0] == other[0] and one[2:] == other[2:]  # they differ in the number of workers only
        assert (logs[one] == logs[other]) == same_numbers or {one[3], other[3]} == {"by length", "early stopping"}


def test_every_resume_is_bit_exact(
    uninterrupted: dict[Setting, Path], scale: Callable[[int, int], int], proof: Callable[..., None], tmp_path: Path
) -> None:
    differing, num_resumes = [], 0
    for setting, whole in uninterrupted.items():
        wanted, points = fingerprint(whole), resume_points(setting[0])
        for point in points[scale(3, 0) :]:
            found = resumed(whole, point, tmp_path / "run")
            num_resumes += 1
            differing += [(setting, point, name) for name in wanted if found.get(name) != wanted[name]]
    for fault in differing:
        print("differs:", *fault)
    wanted_resumes = scale(2 * len(QUICK), 5 * len(SETTINGS))
    differ = len({fault[:2] for fault in differing})
    proof(
        item="3",
        promise="sha256 of weights, optimiser, schedule, counters, random generators and log after a resume equals the uninterrupted run's",
        asked="120 of 120: 5 resume points in 24 settings",
        reached=f"{num_resumes - differ} of {num_resumes}, in {len(uninterrupted)} settings",
        ok=not differing and num_resumes == wanted_resumes,
    )


def test_without_the_random_state_it_would_differ(
    uninterrupted: dict[Setting, Path],
    scale: Callable[[int, int], int],
    proof: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(saved, "restore_random_state", lambda tensors, plain: None)
    chosen = list(uninterrupted.items())[: scale(1, len(SETTINGS))]
    differ = 0
    for setting, whole in chosen:
        wanted = fingerprint(whole)
        found = resumed(whole, resume_points(setting[0])[3], tmp_path / "run")
        differ += found["model.safetensors"] != wanted["model.safetensors"] and found["log"] != wanted["log"]
    proof(
        item="3",
        promise="control: the same with the restoring of the random generators switched off differs",
        asked="all 24 settings differ",
        reached=f"{differ} of {len(chosen)} differ",
        ok=differ == len(chosen) == scale(1, len(SETTINGS)),
    )


def test_the_workers_of_the_loader_do_not_change_the_numbers(
    make: Callable[[Setting], dict[str, Any]],
    uninterrupted: dict[Setting, Path],
    scale: Callable[[int, int], int],
    proof: Callable[..., None],
) -> None:
    with_workers = [setting for setting in uninterrupted if setting[1]]
    same = 0
    for accumulate, workers, augment, order in with_workers[: scale(1, len(SETTINGS))]:
        alone = uninterrupted.get((accumulate, 0, augment, order)) or flow.train(make((accumulate, 0, augment, order))).path
        one, other = fingerprint(alone), fingerprint(uninterrupted[accumulate, workers, augment, order])
        same += one == other
        print(accumulate, augment, order, "differ in:", [name for name in one if one[name] != other.get(name)])
    asked = scale(1, len(SETTINGS) // 2)
    proof(
        item="3",
        promise="a run with 2 loader workers equals the same run without",
        asked="12 of 12 settings",
        reached=f"{same} of {asked}",
        ok=same == asked,
    )


def test_what_an_evaluation_draws_leaves_no_trace(
    make: Callable[[Setting], dict[str, Any]], uninterrupted: dict[Setting, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries draw from the global generators, some only when they are first imported: a resume would import them at another time."""
    scores, drawn = stage.quick_scores, [0]

    def drawing(*given: Any) -> dict[str, float]:
        drawn[0] += 1
        random.random(), np.random.random(), torch.rand(1)
        return scores(*given)

    monkeypatch.setattr(stage, "quick_scores", drawing)
    setting = QUICK[1]
    assert fingerprint(flow.train(make(setting)).path) == fingerprint(uninterrupted[setting]) and drawn[0] > 2
