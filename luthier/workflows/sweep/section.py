"""A sweep file, read and checked as a whole before anything is trained."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from luthier.core import yaml
from luthier.core.config import Section, validate
from luthier.core.errors import ConfigError, Fault
from luthier.core.names import did_you_mean
from luthier.data.locate import find_sources
from luthier.flow import refuse_folds
from luthier.metrics import metrics
from luthier.metrics.intervals import score_keys
from luthier.recipe import Changes, Recipe, resolve
from luthier.tasks.several.scores import metric_of_several
from luthier.workflows.sweep.space import Choices, Range, Space, read_space, require_known

log = logging.getLogger("luthier")
HELD_OUT = 0.1
USUAL_TRIALS = 20


class SweepFile(Section):
    """What a sweep file says."""

    recipe: str | dict[str, Any] = Field(description="The recipe that is varied: a file, a preset, or its keys themselves.")
    space: dict[str, Any] = Field(description="Keys of the recipe, each with a list of values or {low, high, log}.")
    metric: str | None = Field(None, description="Validation score that is sought; none: the task's first, such as accuracy.")
    sampler: Literal["tpe", "random", "grid", "cmaes"] = Field(
        "tpe", description="How values are picked: tpe learns from the trials before, grid takes every combination of lists."
    )
    pruner: Literal["none", "median", "asha"] = Field(
        "median", description="Which trials end early: those below the median of the others, or by successive halving."
    )
    trials: int | None = Field(None, ge=1, description="Number of trials; none: 20, and every combination of a grid.")
    hours: float | None = Field(None, gt=0, description="Training time after which no trial goes on, over all starts of the sweep.")
    workers: int = Field(1, ge=1, description="Trials at a time, each in a process of its own with its share of the cores.")
    seed: int = Field(0, ge=0, description="Seed of the sampler.")
    keep_checkpoints: bool = Field(False, description="Keep the checkpoints of every trial; else its model alone stays.")
    output: str | None = Field(None, description="Folder of the sweep; none: sweeps/ and the name of the file.")


@dataclass(frozen=True)
class SweepPlan:
    """A sweep that was checked.

    Args:
        file: What the sweep file says.
        base: The recipe that is varied, resolved, without its output.
        space: What is tried for each key.
        metric: Validation score that is sought.
        greater_is_better: Its direction.
        folder: Folder of the sweep.
        num_trials: Trials that it has.
    """

    file: SweepFile
    base: dict[str, Any]
    space: Space
    metric: str
    greater_is_better: bool
    folder: Path
    num_trials: int

    def as_dict(self) -> dict[str, Any]:
        """Return what must stay the same when the sweep goes on, as it stands in its folder."""
        said = self.file.model_dump(mode="json", exclude={"recipe", "metric", "trials", "hours", "workers", "keep_checkpoints", "output"})
        return {"recipe": self.base, **said, "metric": self.metric}


def read_sweep(source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any], changes: Changes = ()) -> SweepPlan:
    """Read a sweep file and check all of it.

    Args:
        source: A YAML file, or what would stand in it.
        overrides: Keys of the sweep file that are said elsewhere, such as `{"trials": 5}`.
        changes: Changes to the recipe, by dotted key.

    Raises:
        ConfigError: with every fault found.
    """
    data = dict(source) if isinstance(source, Mapping) else _read(Path(source))
    file, faults = validate(SweepFile, {**data, **overrides})
    space, found = read_space(data.get("space")) if "space" in data else ({}, [])
    faults = [fault for fault in faults if not (fault.path == "space" and found)] + found
    if faults or file is None:
        raise ConfigError(faults, where=None if isinstance(source, Mapping) else str(source))
    recipe = _with_validation(resolve(_recipe_of(file, source), changes))
    refuse_folds(recipe)
    base = {key: value for key, value in recipe.as_dict().items() if key != "output"}
    require_known(base, space)
    _require_sampler(file, space)
    metric = _metric(file, recipe)
    name = "sweep" if isinstance(source, Mapping) else Path(source).stem
    grid = math.prod(len(tried.ends) for tried in space.values())
    num_trials = min(grid, file.trials or grid) if file.sampler == "grid" else file.trials or USUAL_TRIALS
    return SweepPlan(file, base, space, metric, _is_greater_better(recipe, metric), Path(file.output or f"sweeps/{name}"), num_trials)


def _read(path: Path) -> dict[str, Any]:
    loaded = yaml.load_file(path)
    if not isinstance(loaded, Mapping):
        fix = "recipe: reviews.yaml, and space: with what to try"
        raise ConfigError([Fault("sweep", f"got {type(loaded).__name__}, wanted keys and values", fix)], where=str(path))
    return dict(loaded)


def _recipe_of(file: SweepFile, source: object) -> Any:
    """Return the recipe's place: as written, or beside the sweep file."""
    if isinstance(file.recipe, str) and isinstance(source, str | Path) and not Path(file.recipe).exists():
        beside = Path(source).parent / file.recipe
        return str(beside) if beside.is_file() else file.recipe
    return file.recipe


def _with_validation(recipe: Recipe) -> Recipe:
    """Return the recipe with validation rows, which are held out of training where it has none; test rows never choose."""
    sections = {f"tasks.{entry.name}.data": entry.data for entry in recipe.tasks or ()} or {"data": recipe.data}
    lacking = [key for key, data in sections.items() if not data.split.validation and "validation" not in find_sources(data)]
    if not lacking:
        return recipe
    log.info("%s: no validation rows: %.0f %% of the training rows are held out to compare the trials", ", ".join(lacking), 100 * HELD_OUT)
    return resolve(recipe, {f"{key}.split.validation": HELD_OUT for key in lacking})


def _require_sampler(file: SweepFile, space: Space) -> None:
    faults = []
    if file.sampler == "grid":
        ranges = [key for key, tried in space.items() if isinstance(tried, Range)]
        faults = [Fault(f"space.{key}", "is a range, and a grid needs lists", "write a list, or use sampler: tpe") for key in ranges]
    if file.sampler == "cmaes":
        lists = [key for key, tried in space.items() if isinstance(tried, Choices)]
        faults = [Fault(f"space.{key}", "is a list, and cmaes moves numbers alone", "write a range, or use sampler: tpe") for key in lists]
        if len(space) < 2:
            faults.append(Fault("sampler", "cmaes needs two keys or more", "use sampler: tpe"))
    if faults:
        raise ConfigError(faults)


def _metric(file: SweepFile, recipe: Recipe) -> str:
    if recipe.tasks is not None:
        return metric_of_several(file.metric, {entry.name: entry.task for entry in recipe.tasks}, recipe.evaluate.metrics)
    known = list(recipe.task.own_scores) or list(score_keys(ordered=recipe.task.ordered))
    metric = file.metric or recipe.task.headline()
    if metric not in known:
        raise ConfigError([Fault("metric", f"unknown score '{metric}'", did_you_mean(metric, known))])
    if recipe.evaluate.metrics is not None and metric not in recipe.evaluate.metrics:
        raise ConfigError([Fault("metric", f"'{metric}' is not among evaluate.metrics of the recipe", f"add {metric} there")])
    return metric


def _is_greater_better(recipe: Recipe, metric: str) -> bool:
    if metric in recipe.task.own_scores or recipe.tasks is not None:
        return recipe.task.greater_is_better(metric)
    return metrics.get(score_keys()[metric]).greater_is_better
