"""Every registered task whose rows have answers of their own: learns, is the same after saving, does not depend on batches, is written up.

A new task adds a module to tests/row_tasks with its name: `write(folder)` writes tiny rows of it, `CHANGES` is its recipe,
`make_model(folder)` a model where the tiny BERT does not fit, `SCORES` the scores that these rows have where they do not have all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file

from luthier import flow
from luthier.cli.main import main
from luthier.core import files
from luthier.core.run_folder import RunFolder
from luthier.recipe import resolve
from luthier.serve.predictor import Predictor
from luthier.stages.layout.begin import Bench, lay_out
from luthier.tasks import tasks
from luthier.tasks.task import RowWork
from luthier.training.inference import measuring
from luthier.training.step_rules import step_rules

TASKS = [name for name in tasks.names() if tasks.get(name).answers_with == "rows"]
every_task = pytest.mark.parametrize("task", TASKS)
Run = Callable[[str], RunFolder]


def module_of(task: str) -> Any:
    return import_module(f"row_tasks.{task.replace('-', '_')}")


def recipe_of(task: str, folder: Path, tiny_model: Path, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    module = module_of(task)
    model = module.make_model(folder / "model") if hasattr(module, "make_model") else tiny_model
    return tiny.tiny_recipe(model, module.write(folder), folder / "run", {"task": task, **module.CHANGES, **(changes or {})})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Run:
    """Train each task once; read the run, never write into it."""
    known: dict[str, RunFolder] = {}

    def run(task: str) -> RunFolder:
        if task not in known:
            known[task] = flow.train(recipe_of(task, tmp_path_factory.mktemp(task), tiny_model))
        return known[task]

    return run


@pytest.fixture
def bench(tmp_path: Path, tiny_model: Path) -> Callable[..., Bench]:
    def make(task: str, changes: dict[str, Any] | None = None) -> Bench:
        resolved = resolve(recipe_of(task, tmp_path, tiny_model, changes))
        return lay_out(resolved, flow.prepare(resolved))

    return make


def numbers_of(laid: Bench, rows: list[int], *, together: bool = True) -> list[np.ndarray]:
    split, work = laid.prepared.splits["test"], laid.work
    assert isinstance(work, RowWork)
    batches = [rows] if together else [[row] for row in rows]
    with measuring(laid.parts):
        return [one for some in batches for one in work.numbers(work.outputs(laid.parts, work.collate([split.row(row) for row in some])))]


@every_task
def test_it_learns_and_is_written_up(task: str, finished: Run) -> None:
    run, of_task = finished(task), tasks.get(task)
    losses = [line["loss"] for line in files.read_json_lines(run.events) if "loss" in line]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    metrics = files.read_json(run.metrics)
    scores = metrics["scores"]["test"]
    assert set(scores) == set(getattr(module_of(task), "SCORES", of_task.own_scores)) <= set(of_task.own_scores)
    assert scores[of_task.primary_metric]["value"] is not None
    assert scores[of_task.primary_metric]["low"] <= scores[of_task.primary_metric]["value"] <= scores[of_task.primary_metric]["high"]
    assert len(files.read_json_lines(run.reference)) > 5
    report, card = run.report.read_text(encoding="utf-8"), run.card.read_text(encoding="utf-8")
    assert task in report and task in card


@every_task
def test_saved_and_restored_answers_are_the_same(task: str, bench: Callable[..., Bench], tmp_path: Path) -> None:
    laid, rows = bench(task), list(range(10))
    with torch.no_grad():
        for part in laid.parts.values():
            for parameter in part.module.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    before = numbers_of(laid, rows)
    files.make_folder(tmp_path / "saved", lambda folder: laid.work.save(laid.parts, folder))
    work, parts = tasks.get(task)().restore(tmp_path / "saved")
    with measuring(parts):
        split = laid.prepared.splits["test"]
        after = work.numbers(work.outputs(parts, work.collate([split.row(row) for row in rows])))
    assert max(float(np.ptp(one)) for one in [np.concatenate([np.ravel(one) for one in before])]) > 1e-3
    assert max(float(np.abs(one - other).max(initial=0)) for one, other in zip(before, after, strict=True)) <= 1e-5
    assert work.describe() == laid.work.describe()


@every_task
def test_weights_are_known_before_the_forward_pass(task: str, bench: Callable[..., Bench]) -> None:
    laid = bench(task)
    batch = laid.work.collate([laid.prepared.splits["train"].row(index) for index in range(9)])
    weights, terms = laid.work.weights(batch), laid.work.losses(laid.parts, batch)
    assert set(weights) == set(terms) and terms
    assert all(float(term.weight) == pytest.approx(weights[name], rel=1e-6) for name, term in terms.items())


@every_task
def test_answers_do_not_depend_on_the_batch(task: str, bench: Callable[..., Bench]) -> None:
    laid, rows = bench(task), list(range(10))
    together, alone = numbers_of(laid, rows), numbers_of(laid, rows, together=False)
    assert max(float(np.abs(one - other).max(initial=0)) for one, other in zip(together, alone, strict=True)) <= 1e-5


@every_task
def test_any_split_of_a_batch_gives_the_same_gradient(task: str, bench: Callable[..., Bench]) -> None:
    if not tasks.get(task).additive:
        pytest.skip("its rows meet in the loss")
    laid = bench(task, {"model.head.dropout": 0.0})
    found = []
    for cuts in ([range(8)], [range(3), range(3, 8)]):
        split, module = laid.prepared.splits["train"], laid.parts["model"].module
        window = [laid.work.collate([split.row(index) for index in some]) for some in cuts]
        module.zero_grad()
        module.eval()
        step_rules.get("accumulate")().gradient(laid.work, laid.parts, window, torch.enable_grad())
        found.append({name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None})
    assert max(float(gradient.abs().max()) for gradient in found[0].values()) > 1e-4
    assert max(float((found[0][name] - found[1][name]).abs().max()) for name in found[0]) <= 1e-6


@every_task
def test_predict_answers_the_reference_as_the_run_did(task: str, finished: Run) -> None:
    run = finished(task)
    predictor, lines = Predictor.open(run.path), files.read_json_lines(run.reference)
    pairs = [line["text_pair"] for line in lines] if "text_pair" in lines[0] else None
    answers = list(predictor.answer([line["text"] for line in lines], pairs))
    assert [json.loads(json.dumps(answer.label)) for answer in answers] == [line["label"] for line in lines] or _near(answers, lines)


def _near(answers: list[Any], lines: list[dict[str, Any]]) -> bool:
    """Whether numbers are equal but for their last digits."""
    return all(
        isinstance(line["label"], float) and math.isclose(answer.label, line["label"], rel_tol=1e-4, abs_tol=1e-5)
        for answer, line in zip(answers, lines, strict=True)
    )


@every_task
def test_evaluate_finds_the_scores_again(task: str, finished: Run) -> None:
    run, primary = finished(task), tasks.get(task).primary_metric
    again = flow.evaluate(run.path)["scores"]["test"]
    assert again[primary]["value"] == pytest.approx(files.read_json(run.metrics)["scores"]["test"][primary]["value"], abs=1e-4)


@every_task
def test_an_adapter_trains_and_is_saved(task: str, tmp_path: Path, tiny_model: Path) -> None:
    changes = {"adapter": {"type": "lora", "r": 4}, "training.max_steps": 3, "model.extend_vocabulary": False}
    run = flow.train(recipe_of(task, tmp_path, tiny_model, changes))
    line = files.read_json_lines(run.reference)[0]
    pair = [line["text_pair"]] if "text_pair" in line else None
    outputs = Predictor.open(run.path)
    found = outputs.work.numbers(outputs.outputs([line["text"]], pair))[0]  # type: ignore[attr-defined]
    assert np.ravel(found) == pytest.approx(np.array(line["logits"]), abs=1e-4)


@every_task
def test_a_student_comes_nearer_to_its_teacher(task: str, finished: Run, tmp_path: Path, tiny_model: Path) -> None:
    distill = {"teacher": str(finished(task).path), "weight": 1.0, "hidden": 0.1, "attention": 0.1}
    changes = {"distill": distill, "training.max_steps": 20, "evaluate.baseline": False}
    run = flow.train(recipe_of(task, tmp_path, tiny_model, changes))
    told = [line["losses"] for line in files.read_json_lines(run.events) if "losses" in line]
    soft = [sum(value for name, value in losses.items() if name.startswith("soft")) for losses in told]
    assert np.mean(soft[-3:]) < 0.9 * np.mean(soft[:3]), soft
    assert all(math.isfinite(losses["hidden"]) and losses["attention"] > 0 for losses in told)


@every_task
def test_a_teacher_is_learnt_already_by_its_own_copy(task: str, finished: Run, bench: Callable[..., Bench]) -> None:
    run = finished(task)
    laid = bench(task, {"distill": {"teacher": str(run.path)}, "model.path": str(run.model)})
    batch = laid.work.collate([laid.work.item(laid.prepared.splits["train"].row(index), np.random.default_rng(0)) for index in range(9)])
    module, found = laid.parts["model"].module.eval(), []
    for _ in range(2):
        weights, terms = laid.losses.weights(batch), laid.losses.losses(laid.parts, batch)
        assert set(weights) == set(terms)
        assert all(float(term.weight) == pytest.approx(weights[name], rel=1e-6) for name, term in terms.items())
        found.append({name: float(term.sum.detach() / term.weight) for name, term in terms.items() if name.startswith("soft")})
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    assert found[0] and all(abs(near) < 1e-5 and found[1][name] > 1e-4 for name, near in found[0].items()), found


@every_task
def test_a_run_goes_on_and_says_what_it_forgot(task: str, finished: Run, tmp_path: Path, tiny_model: Path) -> None:
    old = finished(task)
    keep = {"run": str(old.path), "replay": 0.5, "ewc": 10.0, "fisher_mask": {"share": 0.5}, "fisher_rows": 20}
    changes = {"keep": keep, "training.l2_sp": 1.0, "training.max_steps": 4, "training.seed": 1, "evaluate.baseline": False}
    run = flow.train(recipe_of(task, tmp_path, tiny_model, changes))
    found, before = files.read_json(run.metrics)["forgetting"], files.read_json(old.metrics)["scores"]["test"]
    primary = found["comparison"]["metric"]
    assert found["labels"] == "join" and len(found["kept_by"]) == 4 and primary in before
    assert found["before"][primary]["value"] == found["comparison"]["base"] == pytest.approx(before[primary]["value"], abs=1e-6)
    assert found["after"][primary]["value"] == found["comparison"]["tuned"]
    ticks = [line["losses"] for line in files.read_json_lines(run.events) if "losses" in line]
    replayed = [sum(value for name, value in losses.items() if name.startswith("replay")) for losses in ticks]
    assert len(ticks) == 4 and max(replayed) > 0
    assert "What was kept" in run.card.read_text(encoding="utf-8") and "Kept by: replay" in run.report.read_text(encoding="utf-8")
    weights = [load_file(one.model / "model.safetensors") for one in (old, run)]
    same = sum(int((weights[0][name] == weights[1][name]).sum()) for name in weights[0])
    assert 0.1 < same / sum(values.numel() for values in weights[0].values()) < 1, "it is the old model, some of it tuned"


@every_task
def test_the_verbs_speak_of_it(task: str, finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(task)
    assert main(["runs", str(run.path.parent)]) == 0
    assert tasks.get(task).primary_metric in capsys.readouterr().out
