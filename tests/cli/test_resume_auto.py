"""`--resume auto` goes on with a run that does what is asked, an older version's too, and refuses one that does something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier import flow
from luthier.core import yaml
from luthier.core.errors import ConfigError
from luthier.recipe import resolve_begun

Make = Callable[..., dict[str, Any]]
SHORT = {"training.max_steps": 2}
MEANS = ("fast_dropout", "lean_blocks", "needed_positions", "row_embedding", "prefix_cache", "keep_memory")


def begun(recipe: dict[str, Any]) -> Path:
    """A run folder whose training was not started yet."""
    return flow.Training.begin(recipe).run.path


def test_a_run_of_a_version_without_the_means_goes_on_without_them(recipe: Make) -> None:
    asked = recipe("run", SHORT)
    path = begun(asked)
    file = path / "recipe.yaml"
    older = yaml.load(file.read_text(encoding="utf-8"), where="recipe.yaml")
    del older["training"]["speed"]
    file.write_text(json.dumps(older), encoding="utf-8")
    training = flow.Training.begin(asked, again=True)
    assert training.run.path == path and not any(getattr(training.recipe.training.speed, name) for name in MEANS)
    training.run.leave()


def test_a_run_of_this_version_keeps_its_means(recipe: Make) -> None:
    path = begun(recipe("run", {**SHORT, "training.speed.row_embedding": False}))
    speed = resolve_begun(path / "recipe.yaml").training.speed
    assert speed.lean_blocks and not speed.row_embedding


def test_another_recipe_is_refused_with_every_key_that_differs(recipe: Make) -> None:
    begun(recipe("run", SHORT))
    with pytest.raises(ConfigError) as caught:
        flow.Training.begin(recipe("run", {"training.max_steps": 3, "training.seed": 7}), again=True)
    said = str(caught.value)
    assert "training.max_steps: 2 in the run that was begun, 3 now" in said and "training.seed: 0 in the run that was begun, 7 now" in said
