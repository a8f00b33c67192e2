"""Recipes of several tasks in what loops around trainings: sweeps and comparisons take them, the rest says what to do instead."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_tasks import two_tasks

from luthier import flow
from luthier.cli.main import main
from luthier.core import files, yaml
from luthier.core.errors import ConfigError
from luthier.workflows.crossval import CrossValidation
from luthier.workflows.sweep.section import read_sweep
from luthier.workflows.sweep.sweep import sweep

pytest.importorskip("optuna")
QUICK = {"training.max_steps": 6, "evaluate.baseline": False, "mixing": {"sampling": "temperature"}, "evaluate.resamples": 100}
Make = Callable[..., dict[str, Any]]


@pytest.fixture
def make(tmp_path: Path, tiny_model: Path) -> Make:
    def made(space: dict[str, Any], **keys: Any) -> dict[str, Any]:
        base = two_tasks(tiny_model, tmp_path, QUICK)
        return {"recipe": base, "space": space, "output": str(tmp_path / "sweep"), "pruner": "none", "sampler": "grid", **keys}

    return made


def test_a_sweep_tries_keys_of_a_task_and_of_the_mixing(make: Make, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(
        yaml.dump(make({"tasks.money.weight": [0.5, 2.0], "mixing.temperature": [1.0, 3.0]})), encoding="utf-8"
    )
    assert main(["sweep", str(tmp_path / "two.yaml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["metric"] == "score" and found["counts"]["complete"] == 4
    for trial in found["trials"]:
        stored = files.read_json(Path(trial["run"]) / "metrics.json")
        assert trial["score"] == stored["scores"]["validation"]["score"]["value"]
        recipe = yaml.load_file(Path(trial["run"]) / "recipe.yaml")
        kept = {"tasks.money.weight": recipe["tasks"][1]["weight"], "mixing.temperature": recipe["mixing"]["temperature"]}
        assert kept == trial["values"]
    assert set(found["best"]["scores"]) == {"validation", "test"}


def test_a_score_of_one_task_chooses(make: Make) -> None:
    found = sweep(make({"optim.learning_rate": [1e-9, 1e-2]}, metric="money/accuracy"))
    for trial in found["trials"]:
        scores = files.read_json(Path(trial["run"]) / "metrics.json")["tasks"]["money"]["scores"]
        assert trial["score"] == scores["validation"]["accuracy"]["value"]
    assert read_sweep(make({"training.seed": [0, 1]}, metric="money/loss"), {}).greater_is_better is False


def test_validation_rows_are_held_out_for_the_tasks_that_have_none(make: Make) -> None:
    given = make({"training.seed": [0, 1]})
    given["recipe"]["tasks"][1]["data"]["split"] = {"test": 0.2}
    base = read_sweep(given, {}).base
    assert [entry["data"]["split"]["validation"] for entry in base["tasks"]] == [0.2, 0.1]


@pytest.mark.parametrize(
    ("space", "keys", "said"),
    [
        ({"tasks.money.data.split.test": [0.1, 0.2]}, {}, "a sweep never looks at the test rows|compared on the same validation rows"),
        ({"tasks": [1, 2]}, {}, "every trial has the same tasks"),
        ({"tasks.money.name": ["a", "b"]}, {}, "a task has one name"),
        ({"tasks.mony.weight": [1.0, 2.0]}, {}, "no task 'mony'"),
        ({"training.seed": [0, 1]}, {"metric": "mony/accuracy"}, "unknown score 'mony/accuracy'"),
    ],
)
def test_what_cannot_be_tried_is_said(space: dict[str, Any], keys: dict[str, Any], said: str, make: Make) -> None:
    with pytest.raises(ConfigError, match=said):
        read_sweep(make(space, **keys), {})


def test_the_mean_wants_the_scores_that_it_is_made_from(make: Make) -> None:
    given = make({"training.seed": [0, 1]})
    given["recipe"]["evaluate"]["metrics"] = ["f1_macro"]
    with pytest.raises(ConfigError, match="made from accuracy"):
        read_sweep(given, {})
    assert read_sweep({**given, "metric": "money/f1_macro"}, {}).metric == "money/f1_macro"


def test_variants_of_several_tasks_are_compared(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = two_tasks(tiny_model, tmp_path, QUICK)
    (tmp_path / "two.yaml").write_text(yaml.dump({key: value for key, value in recipe.items() if key != "output"}), encoding="utf-8")
    variants = {"alike": {}, "more-money": {"tasks.money.weight": 3}}
    file = {"recipes": [str(tmp_path / "two.yaml")], "variants": variants, "seeds": [0], "output": str(tmp_path / "compared")}
    (tmp_path / "compare.yaml").write_text(yaml.dump(file), encoding="utf-8")
    assert main(["sweep", str(tmp_path / "compare.yaml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    scores = {row["variant"]: row["score"]["value"] for row in found["rows"]}
    assert set(scores) == {"alike", "more-money"} and {row["metric"] for row in found["rows"]} == {"score"}
    stored = files.read_json(Path(found["rows"][1]["runs"][0]["run"]) / "metrics.json")["scores"]
    assert scores["more-money"] == pytest.approx(stored[found["rows"][1]["split"]]["score"]["value"])
    runs = sorted((tmp_path / "compared").rglob("metrics.json"))
    assert len([run for run in runs if "tasks" not in run.parts]) == 2


def test_an_ensemble_is_of_one_task_of_each_run(tiny_model: Path, tmp_path: Path) -> None:
    runs = [flow.train(two_tasks(tiny_model, tmp_path, {**QUICK, "training.seed": seed}, f"run-{seed}")).path for seed in (0, 1)]
    from luthier.workflows.together import members_of

    with pytest.raises(ConfigError, match="has several tasks") as caught:
        members_of(runs)
    assert "tasks/subject" in str(caught.value)
    assert main(["ensemble", *(str(run / "tasks" / "money") for run in runs)]) == 0


def test_folds_of_several_tasks_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="crossval takes one task") as caught:
        CrossValidation.begin(two_tasks(tiny_model, tmp_path, {"evaluate.folds": 3}))
    assert "a recipe of its own" in str(caught.value)
