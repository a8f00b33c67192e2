"""A stop loses nothing: a resumed run ends in the same weights, bit for bit, as one that was never stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from runs import checkpoints_of, steps_of, train_until, weights_hash

from luthier import flow
from luthier.core import files
from luthier.core.errors import SetupError

MakeRecipe = Callable[..., dict[str, Any]]
EVERY_3 = {"training.max_steps": 12, "training.save_every": "3steps", "evaluate.baseline": False}
WITH_VALIDATION = {**EVERY_3, "data.split": {"validation": 0.2, "test": 0.2}, "training.eval_every": "2steps"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_csv: Path) -> Path:
    """A run that was never stopped."""
    return flow.train(tiny.tiny_recipe(tiny_model, tiny_csv, tmp_path_factory.mktemp("whole") / "run", EVERY_3)).path


@pytest.mark.parametrize("stopped_after", [1, 3, 4, 8, 11])
def test_a_resumed_run_is_the_uninterrupted_one(stopped_after: int, whole: Path, recipe: MakeRecipe) -> None:
    run = train_until(recipe("run", EVERY_3), stopped_after)
    assert not (run / "model").exists()
    flow.resume(run)
    assert weights_hash(run) == weights_hash(whole)
    assert steps_of(run) == steps_of(whole)
    stored = files.read_json(run / "metrics.json")
    assert stored["resumed_from_step"] == stopped_after - stopped_after % 3
    assert stored["scores"] == files.read_json(whole / "metrics.json")["scores"]
    assert files.read_json_lines(run / "reference.jsonl") == files.read_json_lines(whole / "reference.jsonl")


@pytest.mark.parametrize("case", ["accumulate", "budget", "sgd", "adafactor", "lion", "lamb", "muon", "validation"])
def test_resume_is_exact_in_every_corner(case: str, recipe: MakeRecipe) -> None:
    changes: dict[str, Any] = {
        "accumulate": {**EVERY_3, "training.batch_size": 2, "training.gradient_accumulation_steps": 3, "data.split": {"test": 0.8}},
        "budget": {**EVERY_3, "training.batch_tokens": 90, "training.gradient_accumulation_steps": 2, "data.split": {"test": 0.6}},
        "sgd": {**EVERY_3, "optim": {"type": "sgd", "learning_rate": 0.05, "head_learning_rate": 0.05}},
        "adafactor": {**EVERY_3, "optim": {"type": "adafactor", "learning_rate": 0.01, "head_learning_rate": 0.01}},
        **{
            name: {**EVERY_3, "optim": {"type": name, "learning_rate": 0.003, "head_learning_rate": 0.003}}
            for name in ("lion", "lamb", "muon")
        },
        "validation": WITH_VALIDATION,
    }[case]
    uninterrupted = flow.train(recipe("whole", changes)).path
    run = train_until(recipe("stopped", changes), 7)
    flow.resume(run)
    assert steps_of(run) == steps_of(uninterrupted)
    assert weights_hash(run) == weights_hash(uninterrupted)


def test_a_run_can_be_stopped_again_and_again(whole: Path, recipe: MakeRecipe) -> None:
    run = train_until(recipe("run", EVERY_3), 4)
    for stop in (5, 7, 10):
        ticks = iter(flow.Training.again(run))
        while next(ticks).step < stop:
            pass
        ticks.close()  # type: ignore[attr-defined]
    flow.resume(run)
    assert weights_hash(run) == weights_hash(whole) and steps_of(run) == steps_of(whole)


@pytest.mark.parametrize("damage", ["a flipped bit", "a cut file", "no manifest", "an empty folder"])
def test_a_damaged_newest_checkpoint_is_passed_over(damage: str, whole: Path, recipe: MakeRecipe, caplog: pytest.LogCaptureFixture) -> None:
    run = train_until(recipe("run", EVERY_3), 8)
    newest = run / "checkpoints" / "step-00000006"
    assert checkpoints_of(run) == [3, 6]
    hurt(newest, damage)
    with caplog.at_level(logging.WARNING, "luthier"):
        flow.resume(run)
    assert "step-00000006 is damaged and passed over" in caplog.text
    assert files.read_json(run / "metrics.json")["resumed_from_step"] == 3
    assert weights_hash(run) == weights_hash(whole) and steps_of(run) == steps_of(whole)


def hurt(folder: Path, damage: str) -> None:
    weights, manifest = folder / "model.safetensors", folder / "manifest.json"
    if damage == "a flipped bit":
        content = bytearray(weights.read_bytes())
        content[-5] ^= 1
        weights.write_bytes(content)
    elif damage == "a cut file":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "no manifest":
        manifest.unlink()
    else:
        for file in folder.iterdir():
            file.unlink()


def test_a_checkpoint_that_was_half_written_does_not_count(whole: Path, recipe: MakeRecipe) -> None:
    run = train_until(recipe("run", EVERY_3), 4)
    (run / "checkpoints" / "step-00000003").rename(run / "checkpoints" / ".step-00000003.tmp")
    flow.resume(run)
    assert files.read_json(run / "metrics.json")["resumed_from_step"] == 0
    assert weights_hash(run) == weights_hash(whole) and steps_of(run) == steps_of(whole)


def test_a_finished_run_is_left_as_it_is(tiny_run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")}
    training = flow.Training.again(tiny_run)
    assert list(training) == []
    stored = files.read_json(tiny_run / "metrics.json")
    assert training.metrics is not None and training.metrics["resumed_from_step"] == stored["steps"]
    assert {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")} == before


def test_resuming_on_other_rows_is_refused(recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "rows.csv", tiny.tiny_rows(60))
    run = train_until(recipe("run", EVERY_3, rows=rows), 4)
    tiny.write_rows(rows, tiny.tiny_rows(60, seed=1))
    with pytest.raises(SetupError, match="another data"):
        flow.resume(run)


def test_resuming_on_another_base_model_is_refused(recipe: MakeRecipe, tmp_path: Path) -> None:
    model = tiny.make_tiny_model(tmp_path / "model")
    run = train_until(recipe("run", EVERY_3, model=model), 4)
    tiny.make_tiny_model(model, seed=1)
    with pytest.raises(SetupError, match="another base model"):
        flow.resume(run)
