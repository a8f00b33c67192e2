"""Cross-validation: how rows fall into folds, and what is said of the scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tiny_decoder import make_tiny_decoder, writing_recipe

from luthier import flow
from luthier.core import files
from luthier.core.errors import ConfigError, DataError
from luthier.data.split import folds
from luthier.recipe import resolve
from luthier.workflows.crossval import CrossValidation, cross_validate, over_folds
from luthier.workflows.sweep.section import read_sweep

MakeRecipe = Callable[..., dict[str, Any]]
QUICK = {"training.max_steps": 2, "model.head": {"start": "zero"}, "evaluate.baseline": False, "data.split": {"validation": 0.2}}


def measured(begun: CrossValidation, number: int) -> list[str]:
    """Texts of the rows that a fold measures."""
    recipe = resolve(begun.recipe_of(number))
    split = recipe.task.prepare(recipe.data, recipe.model).splits["test"]
    return split.texts(np.arange(len(split)))


# ---- folds


@settings(max_examples=40, deadline=None)
@given(
    keys=st.lists(st.integers(0, 30), min_size=30, max_size=80),
    number=st.integers(2, 4),
    seed=st.integers(0, 5),
    grouped=st.booleans(),
)
def test_what_belongs_together_is_in_one_fold(keys: list[int], number: int, seed: int, grouped: bool) -> None:
    table = pa.table({"key": [str(key) for key in keys], "label": [str(key % 3) for key in keys]})
    if grouped:
        table = table.append_column("group", pa.array([str(key // 3) for key in keys]))
    try:
        fold_N = folds(table, number, seed=seed)
    except DataError:
        return
    assert set(fold_N[fold_N >= 0]) == set(range(number))
    units = [key // 3 if grouped else key for key in keys]
    for unit in set(units):
        assert len({fold for fold, own in zip(fold_N, units, strict=True) if own == unit}) == 1
    labels = [key % 3 for key in keys]
    for fold in range(number):
        measured = {label for label, own in zip(labels, fold_N, strict=True) if own == fold}
        for label in measured:
            assert len({unit for unit, own in zip(units, labels, strict=True) if own == label}) > 1
    assert np.array_equal(fold_N, folds(table, number, seed=seed)), "the same rows and seed give the same folds"


def test_folds_are_of_like_size_and_shares() -> None:
    table = pa.table({"key": [str(row) for row in range(300)], "label": ["yes" if row % 4 == 0 else "no" for row in range(300)]})
    fold_N = folds(table, 5, seed=0)
    yes_N = np.arange(300) % 4 == 0
    assert np.bincount(fold_N).tolist() == [60] * 5
    assert set(np.bincount(fold_N[yes_N]).tolist()) == {15}


def test_the_only_text_of_a_label_always_trains() -> None:
    table = pa.table({"key": [*"abcdef", "x", "x"], "label": [*"112212", "3", "3"]})
    fold_N = folds(table, 2, seed=0)
    assert fold_N[-2:].tolist() == [-1, -1] and (fold_N[:-2] >= 0).all()


def test_too_few_texts_for_the_folds() -> None:
    table = pa.table({"key": ["a", "a", "b", "b"], "label": ["1", "2", "1", "2"]})
    with pytest.raises(DataError, match="4 rows are 2 groups of equal texts.*too few for 3 folds"):
        folds(table, 3, seed=0)


# ---- the whole


def test_every_row_is_measured_once(recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = tiny.tiny_rows(60)
    file = tiny.write_rows(tmp_path / "rows.csv", [*rows, *rows[:6]])
    content = recipe("cv", QUICK, rows=file)
    found = cross_validate(content, num_folds=3)
    parts = [measured(CrossValidation.begin(content, num_folds=3), fold) for fold in (1, 2, 3)]
    texts = [set(part) for part in parts]
    assert sum(map(len, parts)) == 66 and set.union(*texts) == {text for text, _ in rows} and sum(map(len, texts)) == 60
    for fold, run in enumerate(found["runs"], 1):
        data = files.read_json(Path(run["run"]) / "data.json")
        assert data["splits"]["test"]["rows"] == len(parts[fold - 1]) == found["rows_of_folds"][fold - 1]
        assert data["splits"]["train"]["rows"] + data["splits"]["validation"]["rows"] == 66 - len(parts[fold - 1])
        assert not data["left_out_as_equal"]
        assert run["scores"]["accuracy"] == files.read_json(Path(run["run"]) / "metrics.json")["scores"]["test"]["accuracy"]["value"]
    whole, sizes = found["out_of_fold"], found["rows_of_folds"]
    each = [run["scores"]["accuracy"] for run in found["runs"]]
    assert whole["rows"] == 66 and whole["scores"]["accuracy"]["value"] == pytest.approx(np.dot(each, sizes) / 66)
    assert whole["scores"]["accuracy"]["low"] <= whole["scores"]["accuracy"]["value"] <= whole["scores"]["accuracy"]["high"]
    assert found["scores"]["accuracy"]["value"] == pytest.approx(np.mean(each))
    assert files.read_json(tmp_path / "cv" / "crossval.json") == found


def test_the_interval_is_that_of_student() -> None:
    values: list[float | None] = [0.8, 0.82, 0.79, 0.85, 0.81]
    found = over_folds(values, "accuracy", confidence=0.95)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (found["low"], found["high"]) == (pytest.approx(low), pytest.approx(high))
    assert found["deviation"] == pytest.approx(np.std(values, ddof=1))
    near = over_folds([0.99, 1.0, 0.96], "accuracy", confidence=0.95)
    assert near["high"] == 1.0, "no accuracy is over 1"
    assert over_folds([None, 0.5], "auroc", confidence=0.95)["low"] is None


def test_groups_stay_together_in_folds_and_in_what_is_held_out_of_them(recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = [(text, label, f"customer {place % 20}") for place, (text, label) in enumerate(tiny.tiny_rows(80))]
    file = tiny.write_rows(tmp_path / "rows.csv", rows, header=("text", "label", "customer"))
    split = {"validation": 0.2, "group_by": "customer"}
    begun = CrossValidation.begin(recipe("cv", {**QUICK, "data.split": split}, rows=file), num_folds=4)
    customer = {text: name for text, _, name in rows}
    parts = [{customer[text] for text in measured(begun, fold)} for fold in (1, 2, 3, 4)]
    assert sum(map(len, parts)) == 20 == len(set.union(*parts))
    first = next(iter(begun))
    for _ in first:
        pass
    kept = first.training.recipe.data.split
    assert kept.group_by == "customer" and kept.validation == 0.2 and kept.fold == "1/4"
    splits = {name: split.texts(np.arange(len(split))) for name, split in flow.prepare(first.training.recipe).splits.items()}
    held = [{customer[text] for text in splits[name]} for name in ("train", "validation", "test")]
    assert sum(map(len, held)) == 20 and held[2] == parts[0]


def test_pairs_and_several_labels(recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = tiny.tiny_multi_label_rows(40)
    file = tiny.write_rows(tmp_path / "rows.csv", [(text, text[::-1], label) for text, label in rows], header=("one", "two", "label"))
    changes = {**QUICK, "data.label_separator": "|", "data.text": "one", "data.text_pair": "two", "data.label": "label"}
    found = cross_validate(recipe("cv", changes, rows=file), num_folds=2)
    assert found["scores"]["accuracy"]["folds"] == 2
    assert len(files.read_json(tmp_path / "cv" / "fold-1" / "data.json")["splits"]["train"]["classes"]) == 3


def test_started_again_it_goes_on(recipe: MakeRecipe, tmp_path: Path) -> None:
    content = recipe("cv", QUICK)
    halves = iter(CrossValidation.begin(content, num_folds=2))
    for _ in next(halves):
        pass
    halves.close()  # type: ignore[attr-defined]
    written = (tmp_path / "cv" / "fold-1" / "events.jsonl").stat().st_mtime_ns
    found = cross_validate(content, num_folds=2)
    assert (tmp_path / "cv" / "fold-1" / "events.jsonl").stat().st_mtime_ns == written, "what is done is not done again"
    assert len(found["runs"]) == 2
    with pytest.raises(ConfigError, match="another recipe or number of folds"):
        cross_validate(content, num_folds=3)
    own = tiny.write_rows(tmp_path / "own.csv", tiny.tiny_rows(40))
    CrossValidation.begin(recipe("own", QUICK, rows=own), num_folds=2)
    tiny.write_rows(own, tiny.tiny_rows(40, seed=5))
    with pytest.raises(ConfigError, match="other rows: a file was changed"):
        CrossValidation.begin(recipe("own", QUICK, rows=own), num_folds=2)


def test_the_recipe_may_name_the_folds(recipe: MakeRecipe, tmp_path: Path) -> None:
    content = recipe("cv", {**QUICK, "evaluate.folds": 3})
    begun = CrossValidation.begin(content)
    assert begun.num_folds == 3 and len(measured(begun, 3)) == 40
    assert begun.recipe.evaluate.folds is None, "a fold is one training"
    assert CrossValidation.begin(recipe("cv", QUICK), num_folds=3).folder == begun.folder, "the verb goes on with the same folder"
    for one_training in (lambda: flow.train(content), lambda: read_sweep({"recipe": content, "space": {"training.seed": [1]}}, {})):
        with pytest.raises(ConfigError, match="evaluate.folds: 3 folds are as many trainings"):
            one_training()


def test_what_is_refused(recipe: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="wanted 2 or more"):
        cross_validate(recipe("cv", QUICK), num_folds=1)
    (tmp_path / "book.txt").write_text("one line\nand another\n", encoding="utf-8")
    with pytest.raises(DataError, match="(?s)is one document, and folds are made of rows.*paragraph"):
        cross_validate(writing_recipe(make_tiny_decoder(tmp_path / "writer"), tmp_path / "book.txt", tmp_path / "cv"), num_folds=2)
    for wrong in ("0/3", "4/3", "1/1", "half"):
        with pytest.raises(ConfigError, match="wanted the number of a part"):
            resolve(recipe("cv", {"data.split": {"fold": wrong}}))
    with pytest.raises(ConfigError, match="both hold rows out to measure"):
        resolve(recipe("cv", {"data.split": {"fold": "1/3", "test": 0.2}}))
    with pytest.raises(ConfigError, match="both say which rows measure"):
        resolve(recipe("cv", {"data.split": {"fold": "1/3"}, "data.test": "other.csv"}))
    with pytest.raises(DataError, match="no training rows are named"):
        cross_validate({"output": str(tmp_path / "cv")}, num_folds=2)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="holds no cross-validation"):
        cross_validate(recipe("taken", QUICK), num_folds=2)
