"""Every recipe that is shipped resolves, and trains two steps with a tiny model and tiny rows in the place of its own."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_decoder
from house import PACKAGE, ROOT

from luthier import flow
from luthier.core import files
from luthier.data.section import DataSection
from luthier.recipe import preset_names, resolve


def is_manifest(file: Path) -> bool:
    """Whether a file is for a cluster, not for Luthier."""
    return "apiVersion:" in file.read_text(encoding="utf-8")


RECIPES = sorted([*(PACKAGE / "recipes").glob("*.yaml"), *(file for file in (ROOT / "examples").rglob("*.yaml") if not is_manifest(file))])
FEWEST_RECIPES = 4
every_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.relative_to(ROOT).as_posix())


@pytest.fixture(autouse=True)
def somewhere_for_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes of public data name it by LUTHIER_DATA; to resolve, it need not be there."""
    monkeypatch.setenv("LUTHIER_DATA", "/data")


def test_there_are_recipes_to_watch() -> None:
    assert len(RECIPES) >= FEWEST_RECIPES
    assert preset_names() == sorted(path.stem for path in RECIPES if path.parent == PACKAGE / "recipes")


@every_recipe
def test_recipe_resolves(path: Path) -> None:
    recipe = resolve(path)
    assert resolve(recipe.as_dict()) == recipe, "the resolved recipe must resolve to itself"


@every_recipe
def test_recipe_trains_two_steps(path: Path, tmp_path: Path, tiny_model: Path) -> None:
    data = resolve(path).as_dict() | {"output": str(tmp_path / "run")}
    if "tasks" in data:
        for entry in data["tasks"]:
            entry["data"] = tiny_data(entry["data"], tmp_path / f"{entry['name']}.csv")
        data["model"]["path"] = str(tiny_model)
    elif data["task"]["type"] == "text-generation":
        tiny_writing(data, tmp_path)
    elif resolve(path).task.answers_with == "rows":
        made = import_module(f"row_tasks.{data['task']['type'].replace('-', '_')}")
        data["data"] = {"train": str(made.write(tmp_path)), "split": {"test": 0.2, "validation": 0.2}}
        data["model"]["path"] = str(tiny_model)
    else:
        data["data"] = tiny_data(data["data"], tmp_path / "rows.csv")
        data["model"]["path"] = str(tiny_model)
    data["training"] |= {"max_steps": 2, "threads": 1}
    data["evaluate"] |= {"resamples": 100}
    data["track"] = {"trackers": []}
    run = flow.train(data)
    ticks = [line for line in files.read_json_lines(run.events) if "loss" in line]
    assert [tick["step"] for tick in ticks] == [1, 2] and all(tick["loss"] > 0 for tick in ticks)
    assert files.read_json(run.metrics)["steps"] == 2


def tiny_writing(data: dict[str, Any], folder: Path) -> None:
    """Put a tiny decoder, or its tokenizer, and tiny texts or instructions in the place of a recipe's own."""
    model = tiny_decoder.make_tiny_decoder(folder / "decoder")
    data["model"]["tokenizer" if "scratch" in data["model"] else "path"] = str(model)
    if "prompt" in data["data"]:
        rows = tiny_decoder.write_instructions(folder / "rows.jsonl", tiny_decoder.tiny_instructions(60))
    else:
        rows = tiny_decoder.write_text(folder / "rows.txt", num_words=1000)
    columns = {key: data["data"][key] for key in ("prompt", "prompt_input", "text") if key in data["data"]}
    data["data"] = {**columns, "train": str(rows), "max_length": 48, "split": {"test": 0.2}}


def tiny_data(section: dict[str, Any], path: Path) -> dict[str, Any]:
    """The data section on tiny rows: what says where the rows are is replaced, how they are treated is kept."""
    separator = section.get("label_separator")
    rows = tiny.tiny_multi_label_rows(60, separator=separator) if separator else tiny.tiny_rows(60)
    places = ("validation", "test", "text_pair", "slice_by", "format", "header", "quoting", "delimiter", "encoding", "split", "max_length")
    assert set(places) <= set(DataSection.model_fields)
    kept = {key: value for key, value in section.items() if key not in places}
    held_out = {"validation": 0.2} if section.get("validation") or section.get("split", {}).get("validation") else {}
    train = str(tiny.write_rows(path, rows))
    return kept | {"train": train, "text": "text", "label": "label", "split": {"test": 0.2, **held_out}}
