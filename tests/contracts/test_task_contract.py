"""Every registered task: learns, is the same after saving and loading, and names what is wrong with the data.

A new task adds its tiny rows to TINY_ROWS; the first test says so where they are missing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from luthier import flow
from luthier.core import files
from luthier.core.errors import DataError, UserError
from luthier.core.run_folder import RunFolder
from luthier.core.work import Outputs, Parts
from luthier.recipe import resolve
from luthier.stages.layout.begin import Bench, lay_out
from luthier.tasks import tasks
from luthier.tasks.task import ClassWork
from luthier.training.inference import measuring

MakeRecipe = Callable[..., dict[str, Any]]
TINY_ROWS: dict[str, list[tuple[str, list[tuple[str, str]], dict[str, Any]]]] = {
    # task: (case, rows, changes to the recipe)
    "text-classification": [
        ("one class per text", tiny.tiny_rows(120), {}),
        ("several labels per text", tiny.tiny_multi_label_rows(120), {"data.label_separator": "|", "model.head": {"pooling": "mean"}}),
        ("long texts in windows", tiny.tiny_rows(120), {"data.long_texts": "windows", "data.max_length": 8, "data.window_stride": 2}),
        ("a head of our own", tiny.tiny_rows(120), {"model.head": {"pooling": "mean", "hidden": [16]}}),
        ("balanced focal loss", tiny.tiny_rows(120), {"loss": {"type": "focal", "class_weights": "balanced"}}),
    ],
    "ordinal-classification": [
        ("three classes in an order", tiny.tiny_rows(120), {"data.labels": ["payment", "login", "delivery"]}),
        (
            "stars in windows, rare ones weighed more",
            tiny.tiny_star_rows(120),
            {"data.long_texts": "windows", "data.max_length": 8, "data.window_stride": 2, "loss": {"class_weights": "balanced"}},
        ),
    ],
}
WRITING = [name for name in tasks.names() if tasks.get(name).answers_with == "text"]
"""Tasks that write texts: tests/contracts/test_writing_contract.py, tests/tasks/test_seq2seq.py."""
CASES = [pytest.param(task, rows, changes, id=f"{task}: {case}") for task, cases in TINY_ROWS.items() for case, rows, changes in cases]
every_case = pytest.mark.parametrize(("task", "rows", "changes"), CASES)


@pytest.fixture
def bench(recipe: MakeRecipe, tmp_path: Path) -> Callable[..., Bench]:
    """Lay a tiny training out without running it."""

    def make(task: str, rows: list[tuple[str, str]], changes: dict[str, Any]) -> Bench:
        data = recipe("run", {"task": task, **changes}, rows=tiny.write_rows(tmp_path / "rows.csv", rows))
        resolved = resolve(data)
        return lay_out(resolved, flow.prepare(resolved))

    return make


def outputs(work: ClassWork, parts: Parts, bench: Bench, num_rows: int = 16) -> Outputs:
    split = bench.prepared.splits["test"]
    with measuring(parts):
        return work.outputs(parts, work.collate([split.row(index) for index in range(min(num_rows, len(split)))]))


def test_every_task_has_tiny_rows() -> None:
    own = [name for name in tasks.names() if tasks.get(name).answers_with == "rows"]  # tests/contracts/test_row_contract.py
    assert sorted([*TINY_ROWS, *WRITING, *own]) == tasks.names()


@every_case
def test_training_lowers_the_loss_in_30_steps(task: str, rows: list, changes: dict, recipe: MakeRecipe, tmp_path: Path) -> None:
    settings = {"training.max_steps": 30, "evaluate.baseline": False, "task": task, **changes}
    run = flow.train(recipe("run", settings, rows=tiny.write_rows(tmp_path / "rows.csv", rows)))
    losses = [line["loss"] for line in files.read_json_lines(run.events) if "loss" in line]
    assert len(losses) == 30
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert 0 < files.read_json(run.metrics)["scores"]["test"]["accuracy"]["value"] <= 1
    assert run.finished and len(files.read_json_lines(run.reference)) == min(32, len(rows) // 4)


@every_case
def test_saved_and_restored_answers_are_the_same(task: str, rows: list, changes: dict, bench: Callable[..., Bench], tmp_path: Path) -> None:
    laid = bench(task, rows, changes)
    with torch.no_grad():
        for part in laid.parts.values():
            for parameter in part.module.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    before = outputs(laid.work, laid.parts, laid)
    files.make_folder(tmp_path / "model", lambda folder: laid.work.save(laid.parts, folder))
    work, parts = tasks.get(task)().restore(tmp_path / "model")
    after = outputs(work, parts, laid)
    assert np.ptp(before.logits_BC) > 0.01, "all answers are the same: nothing is compared"
    assert np.abs(after.logits_BC - before.logits_BC).max() <= 1e-6
    assert work.answers(after) == laid.work.answers(before)
    assert work.describe()["labels"] == laid.work.describe()["labels"]


@every_case
def test_weights_are_known_before_the_forward_pass(task: str, rows: list, changes: dict, bench: Callable[..., Bench]) -> None:
    laid = bench(task, rows, changes)
    batch = laid.work.collate([laid.prepared.splits["train"].row(index) for index in range(9)])
    weights, terms = laid.work.weights(batch), laid.work.losses(laid.parts, batch)
    assert set(weights) == set(terms) and terms
    assert all(float(term.weight) == pytest.approx(weights[name], rel=1e-6) for name, term in terms.items())


@every_case
def test_answers_do_not_depend_on_the_batch(task: str, rows: list, changes: dict, bench: Callable[..., Bench]) -> None:
    laid = bench(task, rows, changes)
    split = laid.prepared.splits["test"]
    together = outputs(laid.work, laid.parts, laid)
    with measuring(laid.parts):
        alone = [laid.work.outputs(laid.parts, laid.work.collate([split.row(index)])).logits_BC[0] for index in range(len(together.ids))]
    assert together.ids.tolist() == split.ids_N[: len(together.ids)].tolist()
    assert np.abs(np.stack(alone) - together.logits_BC).max() <= 1e-5


@every_case
def test_new_texts_are_encoded_like_the_prepared_ones(task: str, rows: list, changes: dict, bench: Callable[..., Bench]) -> None:
    laid = bench(task, rows, changes)
    split = laid.prepared.splits["test"]
    again = list(laid.work.encode(split.texts(range(8))))
    for index, row in enumerate(again):
        expected = split.row(index)
        assert row.target is None
        assert [window.tolist() for window in row.windows] == [window.tolist() for window in expected.windows]


@pytest.mark.parametrize("task", sorted(TINY_ROWS))
@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "empty|no row"),
        ([("one text", "a"), ("another text", "a"), ("a third text", "a")], "only the label 'a'"),
        ([("", "a"), (" ", "b"), ("", "a"), ("", "b")], "bad|empty"),
        ([(f"text {number}", "") for number in range(30)], "label"),
        ([(f"text {number}", str(number / 7)) for number in range(300)], "regression|numbers"),
    ],
    ids=["no rows", "one class", "empty texts", "no labels", "numbers for labels"],
)
def test_wrong_records_are_a_data_error(task: str, rows: list, said: str, recipe: MakeRecipe, tmp_path: Path) -> None:
    wrong = resolve(recipe("run", {"task": task}, rows=tiny.write_rows(tmp_path / "wrong.csv", rows)))
    with pytest.raises(DataError, match=said) as caught:
        flow.prepare(wrong)
    assert caught.value.fix and caught.value.exit_code == 2


@pytest.mark.parametrize("task", sorted(TINY_ROWS))
def test_a_missing_column_is_named_with_the_columns_there_are(task: str, recipe: MakeRecipe) -> None:
    with pytest.raises(UserError, match="text") as caught:
        flow.prepare(resolve(recipe("run", {"task": task, "data.text": "revew"})))
    assert "revew" in str(caught.value)


def test_a_run_folder_of_every_task_opens(tiny_run: Path) -> None:
    run = RunFolder.open(tiny_run)
    run.require_finished()
    assert files.read_json(run.model / "luthier.json")["task"] in tasks.names()
