"""Every registered task that writes texts: learns, is the same after saving and loading, and names what is wrong with the data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_decoder import make_tiny_decoder, tiny_instructions, write_instructions, write_text, writing_recipe

from luthier import flow
from luthier.core import files
from luthier.core.errors import DataError, UserError
from luthier.recipe import resolve
from luthier.stages.layout.begin import Bench, lay_out
from luthier.tasks import tasks
from luthier.training.inference import measuring

KINDS = ("instructions", "text")
MakeRecipe = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_decoder(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture
def made(decoder: Path, tmp_path: Path) -> MakeRecipe:
    """Make a recipe on tiny rows of a kind, or on a file."""

    def make(rows: str | Path, changes: dict[str, Any] | None = None) -> dict[str, Any]:
        length = {"data.max_length": 24} if rows == "text" else {}
        if rows == "instructions":
            rows = write_instructions(tmp_path / "rows.jsonl", tiny_instructions(120))
        elif rows == "text":
            rows = write_text(tmp_path / "rows.txt")
        return writing_recipe(decoder, Path(rows), tmp_path / "run", {**length, **(changes or {})})

    return make


def laid(recipe: dict[str, Any]) -> Bench:
    resolved = resolve(recipe)
    return lay_out(resolved, flow.prepare(resolved))


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_loss_in_30_steps(kind: str, made: MakeRecipe) -> None:
    run = flow.train(made(kind, {"training.max_steps": 30, "evaluate.baseline": False}))
    losses = [line["loss"] for line in files.read_json_lines(run.events) if "loss" in line]
    assert len(losses) == 30 and np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert files.read_json(run.metrics)["scores"]["test"]["perplexity"]["value"] > 1
    assert run.finished and len(files.read_json_lines(run.reference)) > 10


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_restored_models_are_the_same(kind: str, made: MakeRecipe, tmp_path: Path) -> None:
    bench = laid(made(kind))
    split = bench.prepared.splits["test"]
    batch = bench.work.collate([split.row(index) for index in range(8)])
    files.make_folder(tmp_path / "model", lambda folder: bench.work.save(bench.parts, folder))
    work, parts = tasks.get("text-generation")().restore(tmp_path / "model")
    with measuring(bench.parts), measuring(parts):
        before, after = bench.work.outputs(bench.parts, batch), work.outputs(parts, batch)
    assert np.ptp(before.nats_B) > 0.01 and np.abs(after.nats_B - before.nats_B).max() <= 1e-5
    assert work.describe() == bench.work.describe()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_known_before_the_forward_pass(kind: str, made: MakeRecipe) -> None:
    bench = laid(made(kind))
    batch = bench.work.collate([bench.prepared.splits["train"].row(index) for index in range(9)])
    terms = bench.work.losses(bench.parts, batch)
    assert {name: float(term.weight) for name, term in terms.items()} == bench.work.weights(batch)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_found_does_not_depend_on_the_batch(kind: str, made: MakeRecipe) -> None:
    bench = laid(made(kind))
    rows = [bench.prepared.splits["test"].row(index) for index in range(12)]
    with measuring(bench.parts):
        together = bench.work.outputs(bench.parts, bench.work.collate(rows))
        alone = [bench.work.outputs(bench.parts, bench.work.collate([row])).nats_B[0] for row in rows]
    assert np.abs(np.array(alone) - together.nats_B).max() <= 1e-4


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "empty|no row"),
        ([{"instruction": "say", "input": "", "output": ""}] * 4, "empty response"),
        ([{"instruction": " ", "input": "sun", "output": "sun"}] * 4, "empty prompt"),
        ([{"instruction": "say", "input": "sun", "output": 7}] * 4, "response of a wrong type"),
        ([{"instruction": "say " * 100, "input": "sun", "output": f"sun {i}"} for i in range(4)], "no room for the response"),
    ],
    ids=["no rows", "empty responses", "empty prompts", "numbers", "long prompts"],
)
def test_wrong_rows_are_a_data_error(rows: list[dict[str, Any]], said: str, made: MakeRecipe, tmp_path: Path) -> None:
    file = tmp_path / "wrong.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(DataError, match=said) as caught:
        flow.prepare(resolve(made(file, {"data.split": {"test": 0}})))
    assert caught.value.fix and caught.value.exit_code == 2


@pytest.mark.parametrize("key", ["prompt", "prompt_input", "text"])
def test_a_missing_column_is_named_with_the_columns_there_are(key: str, made: MakeRecipe) -> None:
    columns = {"data.prompt": "instruction", "data.prompt_input": "input", "data.text": "output", f"data.{key}": "instrction"}
    with pytest.raises(UserError, match="no column 'instrction'; it has 'instruction', 'input', 'output'") as caught:
        flow.prepare(resolve(made("instructions", columns)))
    assert f"data.{key}" in str(caught.value)


def test_a_prompt_without_a_response_column_is_said(made: MakeRecipe, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"instruction": "say", "thing": "sun"}\n' * 3, encoding="utf-8")
    with pytest.raises(DataError, match="which column of .* is the response"):
        flow.prepare(resolve(made(file, {"data.prompt": "instruction"})))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data.label": "output"}, "texts to be written have no labels"),
        ({"data.long_texts": "windows"}, "text-generation has no windows"),
        ({"loss": "focal"}, "takes cross-entropy"),
        ({"task.template": "Question:"}, r"which has no \{prompt\}"),
        ({"task.template": "chat"}, "no chat template"),
        ({"evaluate.metrics": ["accuracy"]}, "unknown score 'accuracy'"),
        ({"task.temprature": 1.0}, "temperature"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], said: str, made: MakeRecipe) -> None:
    with pytest.raises(UserError, match=said):
        laid(made("instructions", changes))


def test_a_run_is_resumed_bit_by_bit(made: MakeRecipe, tmp_path: Path) -> None:
    settings = {"training.max_steps": 12, "training.save_every": "3steps"}
    whole = flow.train(made("instructions", {**settings, "output": str(tmp_path / "whole")}))
    training = flow.Training.begin(made("instructions", settings))
    ticks = iter(training)
    while next(ticks).step < 7:
        pass
    ticks.close()  # type: ignore[attr-defined]
    run = flow.resume(training.run.path)
    weights = [files.sha256_file(one.model / "model.safetensors") for one in (whole, run)]
    assert weights[0] == weights[1]
    assert files.read_json_lines(run.reference) == files.read_json_lines(whole.reference)


def test_a_resume_onto_another_template_is_refused(made: MakeRecipe) -> None:
    training = flow.Training.begin(made("instructions", {"training.max_steps": 8, "training.save_every": "2steps"}))
    ticks = iter(training)
    while next(ticks).step < 5:
        pass
    ticks.close()  # type: ignore[attr-defined]
    recipe = training.run.recipe
    changed = recipe.read_text(encoding="utf-8").replace("template: auto", "template: 'say {prompt} {input}'")
    assert changed != recipe.read_text(encoding="utf-8")
    recipe.write_text(changed, encoding="utf-8")
    with pytest.raises(UserError, match="template"):
        flow.resume(training.run.path)
