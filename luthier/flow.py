"""The flow, in its order: prepare, train, evaluate, predict. Each takes what the one before leaves."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from luthier.core.errors import ConfigError, Fault
from luthier.core.run_folder import RunFolder
from luthier.recipe import Changes, Recipe, resolve, resolve_begun
from luthier.stages.running.under_way import Training, free_name, refuse_folds, stem_of

if TYPE_CHECKING:
    from luthier.core.work import Answer
    from luthier.data.prepared import Prepared

__all__ = [
    "Training",
    "classify",
    "describe_adapter",
    "draw_schedule",
    "evaluate",
    "find_rate",
    "free_name",
    "merge",
    "merge_adapters",
    "plan",
    "predict",
    "prepare",
    "preview",
    "refuse_folds",
    "resume",
    "train",
]


def prepare(recipe: Recipe) -> Prepared:
    """Read, clean, split and encode the rows of a recipe, by way of the cache."""
    return recipe.task.prepare(recipe.data, recipe.model)


def train(recipe: Any = None, *, changes: Changes = (), started: float | None = None) -> RunFolder:
    """Train what the recipe says, to its end, and return the run folder."""
    training = Training.begin(recipe, changes=changes, started=started)
    for _ in training:
        pass
    return training.run


def resume(path: str | Path, *, started: float | None = None) -> RunFolder:
    """Go on with a run where it stopped; a finished one is left as it is."""
    training = Training.again(path, started=started)
    for _ in training:
        pass
    return training.run


def plan(
    recipe: Any = None,
    *,
    changes: Changes = (),
    hardware: Iterable[str] = (),
    price: float | None = None,
    pretraining: bool = False,
    measure: bool = False,
    fresh: bool = False,
    assume: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Say what a run will need before it is begun: memory, time, cost, and what to change where it does not fit.

    Args:
        recipe: A file, a preset's name, plain data, or None for the defaults.
        changes: Values by dotted key.
        hardware: Names of other machines, such as a100-80g.
        price: Price of an hour on any of them.
        pretraining: Say too what a training from zero would want.
        measure: Do the first steps of the run itself, in a process of its own, where the usual trial uses random weights.
        fresh: Measure again what is known of this machine.
        assume: Rows, and tokens in each, instead of the data.

    Returns:
        The object that `luthier plan --json` prints.

    Raises:
        ConfigError: if the recipe is wrong or a machine is not known.
    """
    from luthier.stages.planning.assumed import ROWS, TOKENS, assumed_rows
    from luthier.stages.planning.passes import passes_of
    from luthier.stages.planning.plan import plan_run

    whole = resolve(recipe, changes)
    resolved = whole.model_copy(update={"keep": None})  # of a run that is tuned further its model, and how many old rows are learnt
    if price is not None and price < 0:
        raise ConfigError([Fault("--price", f"got {price:g}, wanted 0 or more", "the price of an hour, such as 2.5")])
    if assume is not None:
        resolved.require_one_task("luthier plan --assume")
    if resolved.tasks is None and resolved.data.train is None:
        assume = assume or (ROWS, TOKENS)
    prepared = prepare(resolved) if assume is None else assumed_rows(resolved, *assume)
    measure = measure and assume is None
    ways: dict[str, Any] = {"hardware": tuple(hardware), "price": price, "pretraining": pretraining, "measure": measure, "fresh": fresh}
    found = plan_run(resolved, prepared, passes=passes_of(whole), **ways)
    return {**found, "assumed": None if assume is None else {"rows": assume[0], "tokens": assume[1]}}


def preview(recipe: Any = None, *, changes: Changes = (), rows: int = 3) -> dict[str, Any]:
    """Show training rows as the model gets them, and count what is used, cut and left out; no weights are loaded.

    Args:
        recipe: A file, a preset's name, plain data, or None for the defaults.
        changes: Values by dotted key.
        rows: How many rows are shown.

    Returns:
        The object that `luthier data preview --json` prints.

    Raises:
        ConfigError: if the recipe is wrong.
        DataError: if the rows cannot be used.
    """
    from luthier.stages.asking.preview import preview_rows

    if rows < 0:
        raise ConfigError([Fault("--rows", f"got {rows}, wanted 0 or more", "the rows to show, such as 3")])
    resolved = resolve(recipe, changes)
    return preview_rows(resolved, prepare(resolved), num=rows)


def draw_schedule(
    recipe: Any = None, *, changes: Changes = (), steps: int | None = None, picture: str | Path = "schedule.svg"
) -> dict[str, Any]:
    """Draw the learning rate over the steps of a run, and which layers are trained; nothing is trained and no weights are loaded.

    Args:
        recipe: A file, a preset's name, plain data, or None for the defaults.
        changes: Values by dotted key.
        steps: Optimiser steps of the run; none: counted from the rows.
        picture: The SVG file to write.

    Returns:
        The object that `luthier schedule --json` prints.

    Raises:
        ConfigError: if the recipe is wrong, or neither rows nor steps are named.
    """
    from luthier.stages.layout.pace import draw_pace, length_in_steps, length_of

    resolved = resolve(recipe, changes)
    if steps is not None and steps < 1:
        raise ConfigError([Fault("--steps", f"got {steps}, wanted 1 or more", "the optimiser steps of the run, such as 1000")])
    if steps is None and any(data.train is None for data in resolved.sources):
        raise ConfigError(
            [Fault("data.train", "no training rows are named, so there are no steps to draw", "--data FILE, or --steps 1000")]
        )
    length = length_of(resolved, prepare(resolved)) if steps is None else length_in_steps(resolved, steps)
    return draw_pace(resolved, length, Path(picture))


def find_rate(recipe: Any = None, *, changes: Changes = (), folder: str | Path | None = None, steps: int = 100) -> dict[str, Any]:
    """Do a range test of the learning rate on a copy of the model; nothing is trained.

    Args:
        recipe: A file, a preset's name, plain data, or None for the defaults.
        changes: Values by dotted key.
        folder: Where find-lr.json and find-lr.svg go; none: the recipe's output, else find-lr- and the name of the data.
        steps: Steps of the test.

    Returns:
        The object that `luthier train --find-lr --json` prints.
    """
    from luthier.stages.asking import find_rate as stage
    from luthier.training.range_test import Rates

    resolved = resolve(recipe, changes).model_copy(update={"keep": None})
    prepared = prepare(resolved)
    where = Path(folder or resolved.output or f"find-lr-{stem_of(resolved)}")
    return stage.find_rate(resolved, prepared, where, Rates(steps=steps))


def evaluate(path: str | Path, *, data: str | None = None, changes: Changes = (), started: float | None = None) -> dict[str, Any]:
    """Score a finished run: on its own held-out rows, or on other labelled rows; where it has several tasks, each on its own.

    Args:
        path: A run folder.
        data: Labelled rows; none scores the run's own validation and test rows.
        changes: Changes to the run's recipe, such as the columns of the other rows.
        started: When the command began, in seconds since the epoch.

    Returns:
        The object that `luthier evaluate --json` prints.
    """
    from luthier.stages.asking.evaluate import evaluate_run

    run = RunFolder.open(path)
    run.require_finished()
    if data is not None or not run.task_names:
        run.require_one_task()
        return evaluate_run(run, resolve_begun(run.recipe, changes), data=data, started=started or time.time())
    found = {name: evaluate(run.tasks / name, changes=changes, started=started) for name in run.task_names}
    return {"run": str(run.path), "tasks": found}


def predict(path: str | Path, texts: Iterable[str]) -> Iterator[Answer]:
    """Yield the answer of a run (or an ensemble, or any classifier folder or hub id) to each text, in constant memory."""
    from luthier.serve.ensemble import open_predictor

    return open_predictor(path).answer(texts)


def classify(
    path: str | Path,
    texts: Iterable[str],
    labels: Iterable[str] = (),
    *,
    examples: Iterable[tuple[str, str]] = (),
    how: Literal["auto", "prototypes", "entailment"] = "auto",
    template: str | None = None,
) -> Iterator[Answer]:
    """Yield an answer to each text with labels that are named here, without training.

    Args:
        path: A run folder, a model folder or a hub id: any encoder, or a classifier of pairs with a label called entailment.
        texts: The texts.
        labels: Names of the labels; none: those of the examples.
        examples: Texts with their labels, a few of each.
        how: prototypes, entailment, or auto: entailment where the model has such a label and there are no examples.
        template: What a label's name stands in, as `{}`.
    """
    from luthier.serve.named_labels import NamedLabels

    return NamedLabels.open(path, list(labels), examples=list(examples), how=how, template=template).answer(texts)


def describe_adapter(path: str | Path) -> dict[str, Any]:
    """Return what an adapter is made of: name, method, settings, base, numbers of parameters, modules.

    Args:
        path: A finished run with an adapter, its model folder, or a folder that the PEFT library saved.

    Returns:
        The object that `luthier adapters --json` prints; further adapters in the folder are its `others`.
    """
    from luthier.stages.asking.adapted import describe_adapters

    first, *others = describe_adapters(path)
    return first | ({"others": others} if others else {})


def merge(path: str | Path, folder: str | Path | None = None) -> dict[str, Any]:
    """Write a run's adapter into its base: a plain model folder, whose logits are compared with those of the run.

    Args:
        path: A finished run with an adapter.
        folder: Where the model goes; none: `merged` in the run folder.

    Returns:
        The object that `luthier merge --json` prints.
    """
    from luthier.stages.merging.merge import merge_run

    run = RunFolder.open(path)
    run.require_finished()
    run.require_one_task()
    return merge_run(run, run.path / "merged" if folder is None else Path(folder))


def merge_adapters(
    paths: Iterable[str | Path],
    folder: str | Path,
    *,
    weights: Iterable[float] | None = None,
    method: str = "svd",
    density: float = 0.5,
) -> dict[str, Any]:
    """Write the weighted sum of several runs' LoRAs as one adapter on the same base.

    Args:
        paths: Finished runs, or folders with adapters.
        folder: Where the sum goes; plain peft loads it, and `predict` where the heads agree.
        weights: What each is multiplied by; none: all alike, with a sum of 1.
        method: svd, cat, linear, ties, dare_linear or dare_ties.
        density: Share of the numbers that ties and dare keep.

    Returns:
        The object that `luthier merge --json` prints.
    """
    from luthier.adapters.injection.weighted import Mixture
    from luthier.stages.merging.mix import mix

    named = list(paths)
    shares = [1 / max(len(named), 1)] * len(named) if weights is None else list(weights)
    return mix(named, Path(folder), Mixture(tuple(shares), method, density))
