"""Soups of every task: the mean of the weights of two runs answers, and is scored beside them; ensembles are of answers with a mean."""

from __future__ import annotations

from pathlib import Path

import every_method
import pytest
from safetensors.torch import load_file

from luthier import flow
from luthier.core.errors import ConfigError
from luthier.core.model_folder import read_settings
from luthier.recipe import resolve
from luthier.serve.predictor import Predictor
from luthier.tasks import tasks
from luthier.workflows.ensemble import ensemble
from luthier.workflows.soup import soup

FEW = ("text-classification", "token-classification", "text-to-text")
"""Looked at each time; the others in the long test."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return every_method.make_models(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("case", FEW)
def test_a_soup_of_some_tasks(case: str, models: Path, tmp_path: Path) -> None:
    look_at(case, models, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in every_method.CASES if case not in FEW])
def test_a_soup_of_every_task(case: str, models: Path, tmp_path: Path) -> None:
    look_at(case, models, tmp_path)


def test_runs_of_several_tasks_are_refused(models: Path, tmp_path: Path) -> None:
    runs = [train(case, models, tmp_path / case, 0) for case in ("text-classification", "text-regression")]
    with pytest.raises(ConfigError, match="is a run of text-regression, and .* of text-classification"):
        soup(runs, tmp_path / "soup")


def train(case: str, models: Path, folder: Path, seed: int) -> Path:
    recipe = every_method.recipe_of(case, folder, models)
    changes = {"training.seed": seed, "output": str(folder / f"run-{seed}"), "evaluate.baseline": False}
    return flow.train(resolve(recipe, changes)).path


def look_at(case: str, models: Path, folder: Path) -> None:
    runs = [train(case, models, folder / "runs", seed) for seed in (0, 1)]
    found = soup(runs, folder / "soup", how="uniform")
    first, second, mean = (load_file(place / "model.safetensors") for place in (runs[0] / "model", runs[1] / "model", folder / "soup"))
    apart = [name for name in mean if float((first[name] - second[name]).abs().max()) > 1e-4]
    assert apart and all(float((mean[name] - (first[name] + second[name]) / 2).abs().max()) <= 1e-6 for name in mean)
    assert set(found["scores"]) == {"validation", "test"} and all("verdict" in one["comparison"]["test"] for one in found["singles"])
    assert Predictor.open(folder / "soup").work.describe()
    greedy = soup(runs, folder / "greedy", how="greedy")
    assert 1 <= len(greedy["chosen"]) <= 2
    task = tasks.get(read_settings(runs[0] / "model")["task"])
    if task.answers_with != "classes" and not task.has_mean:
        with pytest.raises(ConfigError, match="no mean .average the weights instead"):
            ensemble(runs)
