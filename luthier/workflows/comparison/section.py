"""A sweep file with `variants`, read and checked as a whole before anything is trained."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from luthier.core import yaml
from luthier.core.config import Section, validate
from luthier.core.errors import ConfigError, Fault
from luthier.core.names import did_you_mean
from luthier.flow import refuse_folds
from luthier.metrics.intervals import score_keys
from luthier.recipe import PRESETS, Changes, Recipe, resolve
from luthier.tasks.several.scores import metric_of_several

SHIPPED = PRESETS / "sweeps"
NAME = re.compile(r"^\w[\w.-]*$")
CHOSEN = ("recipes", "variants", "seeds")


class ComparisonFile(Section):
    """What a sweep file with variants says."""

    recipes: tuple[str, ...] = Field(min_length=1, description="Recipes that are varied: files (also beside this one) or presets.")
    variants: dict[str, dict[str, Any] | None] = Field(
        min_length=1, description="What each variant changes in a recipe: sections, or keys with dots; nothing: the recipe itself."
    )
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="Values of training.seed; a run for each.")
    metric: str | None = Field(None, description="Score that is compared; none: the first of the task, such as accuracy.")
    hours: float | None = Field(None, gt=0, description="Time after which no run goes on, over all starts of the sweep.")
    workers: int = Field(1, ge=1, description="Runs at a time; each has its share of the cores.")
    keep_checkpoints: bool = Field(False, description="Keep the checkpoints of finished runs; else their models alone stay.")
    output: str | None = Field(None, description="Folder of the sweep; none: sweeps/ and the name of the file.")


@dataclass(frozen=True)
class PlannedRun:
    """One training of a comparison.

    Args:
        recipe: Name of the recipe that is varied.
        variant: Name of the variant.
        seed: Seed of the training.
        settings: The recipe of the run, resolved.
    """

    recipe: str
    variant: str
    seed: int
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """Where it stands in the sweep's folder, under runs/."""
        return f"{self.recipe}/{self.variant}/seed-{self.seed}"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.settings["output"])


@dataclass(frozen=True)
class ComparisonPlan:
    """A comparison that was checked.

    Args:
        file: What the sweep file says, with what was chosen of it.
        folder: Folder of the sweep.
        runs: Every training, in order: all variants with the first seed come first.
        metrics: The score that is compared, by recipe.
        confidence: Share of cases in which an interval holds the truth, by recipe.
    """

    file: ComparisonFile
    folder: Path
    runs: tuple[PlannedRun, ...]
    metrics: dict[str, str]
    confidence: dict[str, float]


def find_sweep(named: str | Path) -> Path:
    """Return the sweep file that is meant: a file, or the name of a shipped one, such as `compare-methods`.

    Args:
        named: As written; `recipes/compare-methods.yaml` is found from anywhere too.
    """
    path = Path(named)
    if not path.exists() and path.parent in (Path("."), Path("recipes"), Path("recipes/sweeps")):
        shipped = SHIPPED / f"{path.stem}.yaml"
        if shipped.is_file():
            return shipped
        if path.suffix == "":
            known = [file.stem for file in SHIPPED.glob("*.yaml")]
            raise ConfigError([Fault("sweep", f"no file and no shipped sweep '{named}'", did_you_mean(str(named), known))])
    return path


def has_variants(source: str | Path | Mapping[str, Any]) -> bool:
    """Whether a sweep file compares variants, and does not search."""
    said = source if isinstance(source, Mapping) else yaml.load_file(find_sweep(source))
    return isinstance(said, Mapping) and "variants" in said


def read_comparison(source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any], changes: Changes = ()) -> ComparisonPlan:
    """Read a sweep file with variants and check all that was chosen of it.

    Args:
        source: A YAML file, the name of a shipped one, or what would stand in it.
        overrides: Keys of the file that are said elsewhere; `variants` and `recipes` are names of those that are taken.
        changes: Changes to all recipes, by dotted key.

    Raises:
        ConfigError: with every fault found.
    """
    path = None if isinstance(source, Mapping) else find_sweep(source)
    data = dict(yaml.load_file(path)) if path is not None else dict(source)  # type: ignore[arg-type]
    chosen = {name: overrides[name] for name in ("recipes", "variants") if name in overrides}
    file, faults = validate(ComparisonFile, {**data, **{key: value for key, value in overrides.items() if key not in chosen}})
    if faults or file is None:
        raise ConfigError(faults, where=None if path is None else str(path))
    folder = Path(file.output or f"sweeps/{path.stem if path is not None else 'comparison'}")
    recipes = _chosen({_name_of(one): one for one in file.recipes}, chosen.get("recipes"), "recipes", file.recipes)
    variants = _chosen(file.variants, chosen.get("variants"), "variants", file.variants)
    beside = None if path is None else path.parent
    wanted = list(changes.items() if isinstance(changes, Mapping) else changes)
    bases = {name: resolve(_place_of(recipe, beside), wanted) for name, recipe in recipes.items()}
    made: dict[tuple[str, str], Recipe] = {}
    for name, recipe in recipes.items():
        for variant, change in variants.items():
            try:
                made[name, variant] = _varied(_place_of(recipe, beside), change or {}, wanted)
            except ConfigError as error:
                faults += [Fault(f"variants.{variant}: {one.path}", f"{one.message} (recipe {name})", one.fix) for one in error.faults]
    if faults:
        raise ConfigError(faults, where=None if path is None else str(path))
    runs = tuple(_planned(made[name, variant], name, variant, seed, folder) for seed in file.seeds for name, variant in made)
    metrics = {name: _metric(file, base) for name, base in bases.items()}
    return ComparisonPlan(file, folder, runs, metrics, {name: base.evaluate.confidence for name, base in bases.items()})


def _chosen(known: Mapping[str, Any], names: Any, key: str, written: Any) -> dict[str, Any]:
    """Return the named ones of what a file has, in its order; all where none is named."""
    faults = [Fault(f"{key}.{name}", "is no name for a folder", "use letters, digits, - and _") for name in known if not NAME.match(name)]
    if len(known) < len(written):
        faults.append(Fault(key, "two have the same name", "name each once"))
    wanted = [str(name) for name in names] if names else list(known)
    faults += [Fault(f"--{key}", f"'{name}' is not in the file", did_you_mean(name, known)) for name in wanted if name not in known]
    if faults:
        raise ConfigError(faults)
    return {name: value for name, value in known.items() if name in wanted}


def _name_of(recipe: str) -> str:
    return Path(recipe).stem


def _place_of(recipe: str, beside: Path | None) -> str:
    """Return where a recipe is: as written, or beside the sweep file."""
    if beside is not None and not Path(recipe).exists() and (beside / recipe).is_file():
        return str(beside / recipe)
    return recipe


def _varied(recipe: str, change: Mapping[str, Any], wanted: list[tuple[str, Any]]) -> Recipe:
    """Return a recipe with what a variant changes, and what was changed for all."""
    sections = {key: value for key, value in change.items() if "." not in key}
    keys = [(key, value) for key, value in change.items() if "." in key]
    return resolve({"from": recipe, **sections}, [*keys, *wanted])


def _planned(recipe: Recipe, name: str, variant: str, seed: int, folder: Path) -> PlannedRun:
    output = str(folder / "runs" / name / variant / f"seed-{seed}")
    refuse_folds(recipe)
    settings = resolve(recipe, {"training.seed": seed, "evaluate.baseline": False, "output": output}).as_dict()
    return PlannedRun(name, variant, seed, settings)


def _metric(file: ComparisonFile, recipe: Recipe) -> str:
    if recipe.tasks is not None:
        return metric_of_several(file.metric, {entry.name: entry.task for entry in recipe.tasks}, recipe.evaluate.metrics)
    known = list(recipe.task.own_scores) or list(score_keys(ordered=recipe.task.ordered))
    metric = file.metric or recipe.task.headline()
    if metric not in known:
        raise ConfigError([Fault("metric", f"unknown score '{metric}'", did_you_mean(metric, known))])
    if recipe.evaluate.metrics is not None and metric not in recipe.evaluate.metrics:
        raise ConfigError([Fault("metric", f"'{metric}' is not among evaluate.metrics of the recipe", f"add {metric} there")])
    return metric


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Yield the dotted keys in which two recipes differ."""
    for key in dict.fromkeys([*one, *other]):
        name = f"{path}.{key}" if path else key
        mine, theirs = one.get(key), other.get(key)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            yield from differing_keys(mine, theirs, name)
        elif mine != theirs:
            yield name
