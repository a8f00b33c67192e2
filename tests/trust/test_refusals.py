"""Item 7: a run does not go on with other data, another tokenizer, another base model or another schedule, and says what changed."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from forks import zygote
from runs import steps_of, train_until, weights_hash

from luthier import flow
from luthier.core import files, yaml
from luthier.core.errors import SetupError
from luthier.training import checkpoint

CHANGES = {"training.epochs": 1, "training.save_every": "2steps", "evaluate.baseline": False}
WHOLE = {**CHANGES, "training.max_steps": None}


@dataclass
class Stopped:
    """A stopped run with its model and rows beside it, all to be changed at will."""

    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def rows(self) -> Path:
        return self.folder / "rows.csv"

    def set(self, key: str, value: Any) -> None:
        """Change a value of the run's recipe.yaml."""
        recipe = yaml.load_file(self.run / "recipe.yaml")
        *sections, last = key.split(".")
        place = recipe
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
        (self.run / "recipe.yaml").write_text(yaml.dump(recipe), encoding="utf-8")

    def edit_rows(self, change: Callable[[list[str]], list[str]]) -> None:
        lines = self.rows.read_text().splitlines()
        self.rows.write_text("\n".join([lines[0], *change(lines[1:])]) + "\n")

    def edit_json(self, name: str, change: Callable[[Any], None]) -> None:
        content = json.loads((self.model / name).read_text())
        change(content)
        (self.model / name).write_text(json.dumps(content))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_csv: Path) -> Path:
    """A run that was stopped after step 5, with its checkpoint of step 4."""
    folder = tmp_path_factory.mktemp("refusals")
    shutil.copytree(tiny_model, folder / "model")
    shutil.copy(tiny_csv, folder / "rows.csv")
    train_until(tiny.tiny_recipe(folder / "model", folder / "rows.csv", folder / "run", WHOLE), 5)
    return folder


@pytest.fixture
def stopped(whole: Path, tmp_path: Path) -> Stopped:
    copy = Stopped(Path(shutil.copytree(whole, tmp_path / "copy")))
    copy.set("model.path", str(copy.model))
    copy.set("data.train", str(copy.rows))
    return copy


def swap_in(model: Callable[[Path], Path]) -> Callable[[Stopped], None]:
    """Put another model in the place of the base model, with the tokenizer as it was."""

    def apply(stopped: Stopped) -> None:
        made = model(stopped.folder / "other")
        for name in ("model.safetensors", "config.json"):
            shutil.copy(made / name, stopped.model / name)

    return apply


def new_word(stopped: Stopped) -> None:
    """Rename a word of the vocabulary that the rows do not have."""

    def change(tokenizer: Any) -> None:
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["quux"] = vocabulary.pop("##z")

    stopped.edit_json("tokenizer.json", change)


def keep_case(stopped: Stopped) -> None:
    stopped.edit_json("tokenizer.json", lambda tokenizer: tokenizer["normalizer"].update(lowercase=False))
    stopped.edit_json("tokenizer_config.json", lambda config: config.update(do_lower_case=False))


def rename_label(lines: list[str]) -> list[str]:
    return [line.replace(",login", ",sign-in") for line in lines]


def change_cell(lines: list[str]) -> list[str]:
    return [lines[0].replace(" ", " hello ", 1), *lines[1:]]


def set_to(key: str, value: Any) -> Callable[[Stopped], None]:
    return lambda stopped: stopped.set(key, value)


def other_rows(change: Callable[[list[str]], list[str]]) -> Callable[[Stopped], None]:
    return lambda stopped: stopped.edit_rows(change)


CASES: dict[str, tuple[Callable[[Stopped], None], str, str]] = {
    "a changed cell": (other_rows(change_cell), "data", "train file .* then, .* now"),
    "an added row": (other_rows(lambda lines: [*lines, "a brand new parcel,delivery"]), "data", "training rows 90 then, 91 now"),
    "a removed row": (other_rows(lambda lines: lines[:-4]), "data", "training rows 90 then, 87 now"),
    "another label name": (other_rows(rename_label), "labels", "login.* then, .*sign-in.* now"),
    "another seed of the split": (set_to("data.split.seed", 43), "data", "split.seed 42 then, 43 now"),
    "another share held out": (set_to("data.split.test", 0.5), "data", "split.test 0.25 then, 0.5 now"),
    "another vocabulary": (new_word, "tokenizer", "vocabulary .* then, .* now"),
    "lower-casing switched": (keep_case, "tokenizer", "normalizer.lowercase true then, false now"),
    "another longest text": (set_to("data.max_length", 12), "tokenizer", "max_length 64 then, 12 now"),
    "another model's weights": (swap_in(lambda to: tiny.make_tiny_model(to, seed=1)), "base model", "weights .* then, .* now"),
    "another width": (swap_in(lambda to: tiny.make_tiny_model(to, width=48)), "base model", "hidden_size 32 then, 48 now"),
    "another config": (
        lambda stopped: stopped.edit_json("config.json", lambda config: config.update(hidden_dropout_prob=0.3)),
        "base model",
        "config.hidden_dropout_prob 0.1 then, 0.3 now",
    ),
    "another shape of schedule": (set_to("schedule", {"type": "cosine"}), "schedule", "type linear then, cosine now"),
    "another warm-up": (set_to("schedule.warmup", "10%"), "schedule", "warmup 6% then, 10% now"),
    "another learning rate": (set_to("optim.learning_rate", 0.02), "optimiser", "learning_rate 0.01 then, 0.02 now"),
    "more epochs": (set_to("training.epochs", 2), "schedule", "total_steps 12 then, 24 now"),
    "fewer steps": (set_to("training.max_steps", 8), "schedule", "max_steps none then, 8 now"),
    "another batch size": (set_to("training.batch_size", 4), "order of the rows", "batch_size 8 then, 4 now"),
    "another accumulation": (set_to("training.gradient_accumulation_steps", 2), "order of the rows", "accumulation_steps 1 then, 2 now"),
    "another optimiser": (
        set_to("optim", {"type": "sgd", "learning_rate": 0.01, "head_learning_rate": 0.01}),
        "optimiser",
        "type adamw then, sgd now",
    ),
    "another seed": (set_to("training.seed", 1), "order of the rows", "seed 0 then, 1 now"),
    "another loss": (set_to("loss", {"type": "focal"}), "task", "loss.type cross-entropy then, focal now"),
}
refused: set[str] = set()


@pytest.mark.parametrize("case", CASES)
def test_another_run_is_refused(case: str, stopped: Stopped) -> None:
    change, name, words = CASES[case]
    change(stopped)
    before = {path: path.stat().st_mtime_ns for path in (stopped.run / "checkpoints").rglob("*")}
    with pytest.raises(
        SetupError, match=rf"made with another.* {name}.*: resuming would mix two runs[\s\S]*\n  {name}: .*{words}"
    ) as caught:
        flow.resume(stopped.run)
    assert caught.value.exit_code == 2 and "put back what changed" in str(caught.value.fix)
    assert {path: path.stat().st_mtime_ns for path in (stopped.run / "checkpoints").rglob("*")} == before, "nothing is touched"
    refused.add(case)


def test_enough_is_refused(proof: Callable[..., None]) -> None:
    """Counts what the tests above saw; alone it has nothing to count."""
    if not refused:
        pytest.skip("the refusals were not run")
    proof(
        item="7",
        promise="resume onto changed data, tokenizer, base model or shape of schedule is refused with the reason",
        asked="20 of 20",
        reached=f"{len(refused)} of {len(CASES)}, each with the key that differs, its value then and now",
        ok=len(refused) == len(CASES) >= 20,
    )


def test_the_command_line_says_it(stopped: Stopped, tmp_path: Path) -> None:
    stopped.set("schedule.warmup", "10%")
    said = tmp_path / "said.txt"
    assert zygote().run("victims:train", ["--resume", str(stopped.run)], str(tmp_path / "marks"), said=said) == 2
    assert "schedule: warmup 6% then, 10% now" in said.read_text() and "Traceback" not in said.read_text()


def test_what_was_put_back_goes_on(stopped: Stopped) -> None:
    stopped.set("schedule.warmup", "10%")
    with pytest.raises(SetupError):
        flow.resume(stopped.run)
    stopped.set("schedule.warmup", "6%")
    flow.resume(stopped.run)
    assert files.read_json(stopped.run / "metrics.json")["resumed_from_step"] == 4


@pytest.mark.parametrize("key", ["training.save_every", "training.keep_checkpoints", "evaluate.resamples", "a moved folder"])
def test_what_does_not_matter_is_not_refused(key: str, stopped: Stopped, recipe: Callable[..., dict[str, Any]]) -> None:
    if key == "a moved folder":
        stopped = Stopped(stopped.folder.rename(stopped.folder.with_name("moved")))
        stopped.set("model.path", str(stopped.model))
        stopped.set("data.train", str(stopped.rows))
    else:
        stopped.set(key, {"training.save_every": "5 steps", "training.keep_checkpoints": 3, "evaluate.resamples": 200}[key])
    uninterrupted = flow.train(recipe("whole", WHOLE)).path
    flow.resume(stopped.run)
    assert weights_hash(stopped.run) == weights_hash(uninterrupted)
    assert [step["loss"] for step in steps_of(stopped.run)] == [step["loss"] for step in steps_of(uninterrupted)]


@pytest.mark.parametrize("changed", ["torch", "threads"])
def test_another_torch_or_thread_count_warns(
    changed: str, stopped: Stopped, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if changed == "torch":
        monkeypatch.setattr(torch, "__version__", "9.9.9")
    else:
        stopped.set("training.threads", 2)
    with caplog.at_level(logging.WARNING, "luthier"):
        flow.resume(stopped.run)
    torch.set_num_threads(1)
    assert "the last bits of the numbers may differ" in caplog.text
    assert files.read_json(stopped.run / "metrics.json")["resumed_from_step"] == 4


def test_without_a_change_nothing_is_said(stopped: Stopped, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "luthier"):
        flow.resume(stopped.run)
    assert "may differ" not in caplog.text and checkpoint.newest_valid(stopped.run / "checkpoints")[0] is not None
