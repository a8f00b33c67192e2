"""The flow, in its order: prepare, train, evaluate, predict. Each takes what the one before leaves."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core import files, machine
from luthier.core.errors import GO_ON, ConfigError, Fault, Interrupted, ProcessLost
from luthier.core.run_folder import RunFolder
from luthier.core.tick import Tick
from luthier.recipe import Changes, Recipe, resolve, resolve_begun

if TYPE_CHECKING:
    from luthier.core.work import Answer
    from luthier.data.prepared import Prepared
    from luthier.stages.begin import Bench
    from luthier.stages.train import Trainer
    from luthier.training.world import World

log = logging.getLogger("luthier")


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


class Training:
    """A training under way: iterate over it for its ticks; at the end `metrics` holds what `metrics.json` says.

    Args:
        run: The run folder.
        recipe: What to do.
        world: The processes that train together; process 0 writes the run folder, and has the metrics.
        started: When the command began, in seconds since the epoch.
        resumed: Whether the run was begun before.
    """

    def __init__(self, run: RunFolder, recipe: Recipe, world: World, *, started: float | None, resumed: bool) -> None:
        self.run, self.recipe, self.world = run, recipe, world
        self.metrics: dict[str, Any] | None = None
        self.resumed_from: int | None = 0 if resumed else None
        self._started = started or time.time()
        if world.rank == 0 and not run.complete:
            run.take()
        if resumed and world.rank == 0:
            files.sweep(run.path)
        if world.shared(resumed and run.complete):
            stored = files.read_json(run.metrics)
            self.metrics = {"resumed_from_step": stored["steps"], **stored}

    @classmethod
    def begin(cls, recipe: Any = None, *, changes: Changes = (), started: float | None = None, again: bool = False) -> Training:
        """Start a new run: resolve the recipe and make the run folder.

        Args:
            recipe: A file, a preset's name, plain data, or None for the defaults.
            changes: Values by dotted key.
            started: When the command began, in seconds since the epoch.
            again: Go on with the run in the recipe's output folder if there is one, as a scheduler that starts a job again wants.

        Raises:
            ConfigError: if the recipe is wrong, the folder is taken, or the run in it does something else.
        """
        resolved = resolve(recipe, changes)
        refuse_folds(resolved)
        if again and resolved.output is None:
            raise ConfigError([Fault("output", "is required with --resume auto", "name the run folder: --output runs/NAME")])
        world = join(resolved)
        with _watching(world):
            return cls._begin(resolved, world, started=started, again=again)

    @classmethod
    def _begin(cls, resolved: Recipe, world: World, *, started: float | None, again: bool) -> Training:
        if resolved.keep is not None:
            from luthier.stages.update.old_run import OldRun

            OldRun.of(resolved)  # what is wrong with it is said before a run folder is made
        path = Path(world.shared(resolved.output or free_name(resolved)))
        if world.shared(again and RunFolder(path).recipe.is_file()):
            from luthier.stages.same_recipe import refuse_another_recipe

            run = RunFolder.open(path)
            refuse_another_recipe(resolved, resolve(run.recipe), str(path))
            return cls(run, resolve_begun(run.recipe), world, started=started, resumed=True)
        if world.rank == 0:
            RunFolder.create(path, recipe=resolved.as_dict(), environment=machine.environment())
        world.agreed(0)
        return cls(RunFolder.open(path), resolved, world, started=started, resumed=False)

    @classmethod
    def again(cls, path: str | Path, *, started: float | None = None) -> Training:
        """Take up a run folder; a finished one has nothing left to do."""
        run = RunFolder.open(path)
        recipe = resolve_begun(run.recipe)
        return cls(run, recipe, join(recipe), started=started, resumed=True)

    def __iter__(self) -> Iterator[Tick]:
        """Yield one Tick per optimiser step; after the last one the run is measured and its pages are written.

        Raises:
            Interrupted: on Ctrl-C or SIGTERM, after the state was saved.
        """
        try:
            with _watching(self.world):
                if self.metrics is None:
                    yield from self._all()
                self.world.leave()
        finally:
            self.run.leave()

    def _all(self) -> Iterator[Tick]:
        from luthier.stages.planning.refusal import refuse_oversize
        from luthier.stages.train import Trainer

        refuse_oversize(self.recipe)
        prepared = self._prepared() if self.recipe.keep is None else self._beside_old_labels()
        trainer = Trainer.set_up(self.run, self.recipe, prepared, resume=self.resumed_from is not None, world=self.world)
        self.recipe = trainer.bench.recipe
        if self.resumed_from is not None:
            self.resumed_from = trainer.bench.saved.state.step
        yield from self._until_stopped(trainer)
        if self.world.rank == 0:
            self.metrics = self._finished(trainer.whole())

    def _until_stopped(self, trainer: Trainer) -> Iterator[Tick]:
        from luthier.training.signals import StopRequested

        state, fix = trainer.bench.saved.state, f"go on with: luthier train --resume {self.run.path}"
        with trainer.stop:
            try:
                yield from trainer.ticks()
            except StopRequested as stop:
                what = f"stopped while the disk was full: step {state.step} could not be saved, older checkpoints are whole"
                raise Interrupted(what, exit_code=trainer.stop.exit_code, fix=fix) from stop
            stopped = trainer.stop.is_agreed()
        if stopped:
            self.world.leave()
            what = f"stopped after step {state.step}; everything is saved in {self.run.path}"
            raise Interrupted(what, exit_code=trainer.stop.exit_code, fix=fix)

    def _finished(self, bench: Bench) -> dict[str, Any]:
        """Measure and write the pages; a full disk only pauses it."""
        from luthier.stages.finish import finish
        from luthier.stages.finish_several import finish_several, settled
        from luthier.training.checkpoint.space import estimated_bytes
        from luthier.training.patience import until_written

        needed = estimated_bytes(bench.parts) * len(self.recipe.sources)
        end = partial(finish, bench, self.run, started=self._started, resumed_from=self.resumed_from)
        if self.recipe.tasks is not None:
            end = partial(finish_several, bench, self.run, settled(bench, self.run, self.resumed_from), started=self._started)
        return until_written(end, self.run.path, needed=needed)

    def _beside_old_labels(self) -> Prepared:
        """Return the encoded rows, with labels that go on from those of the run that is tuned further, where it is the same task."""
        from luthier.stages.update.joining import with_labels_decided, with_old_labels

        self.recipe = with_old_labels(self.recipe)
        prepared, before = self._prepared(), self.recipe.data
        self.recipe = with_labels_decided(self.recipe, prepared)
        return prepared if self.recipe.data == before else self._prepared()

    def _prepared(self) -> Prepared:
        """Return the encoded rows, which process 0 makes; where too many are bad, list them in the run folder before stopping."""
        from luthier.data.collect import BadRowsError
        from luthier.data.prepared import Prepared

        prepared = None
        if self.world.rank == 0:
            try:
                prepared = prepare(self.recipe)
            except BadRowsError as error:
                files.write_json_lines(self.run.quarantine, (row.as_dict() for row in error.bad))
                raise
        folder = self.world.shared(prepared.folder if prepared else Path())
        if prepared is not None:
            return prepared
        return Prepared.open(folder, from_cache=True) if folder.is_dir() else prepare(self.recipe)


@contextmanager
def _watching(world: World) -> Iterator[None]:
    """Within the context, the loss of another process has an error of its own."""
    try:
        yield
    except RuntimeError as error:
        if not world.has_lost(error):
            raise
        fix = f"see its own error; then: {GO_ON}"
        raise ProcessLost(f"process {world.rank} stops because another process of the run ended", fix=fix) from error


def refuse_folds(recipe: Recipe) -> None:
    """Raise ConfigError where a recipe asks for several trainings, and one is wanted."""
    if recipe.evaluate.folds is not None:
        fix = "leave it out; luthier train, and luthier.workflows.crossval.cross_validate in Python, do all folds"
        raise ConfigError([Fault("evaluate.folds", f"{recipe.evaluate.folds} folds are as many trainings, and this is one", fix)])


def join(recipe: Recipe) -> World:
    """Return the processes that train together: those that a launcher started, else this one alone.

    A model that is split among processes may be split among one, so that its checkpoints go on with any number.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or recipe.training.parallel == "fsdp2":
        from luthier.training import distributed

        return distributed.join(timeout=recipe.training.rendezvous_timeout)
    from luthier.training.world import ALONE

    return ALONE


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
    from luthier.stages.planning.plan import plan_run

    resolved = resolve(recipe, changes).model_copy(update={"keep": None})  # of a run that is tuned further, its model alone
    resolved.require_one_task("luthier plan")
    if price is not None and price < 0:
        raise ConfigError([Fault("--price", f"got {price:g}, wanted 0 or more", "the price of an hour, such as 2.5")])
    if resolved.data.train is None:
        assume = assume or (ROWS, TOKENS)
    prepared = prepare(resolved) if assume is None else assumed_rows(resolved, *assume)
    found = plan_run(
        resolved, prepared, hardware=tuple(hardware), price=price, pretraining=pretraining, measure=measure and assume is None, fresh=fresh
    )
    return {**found, "assumed": None if assume is None else {"rows": assume[0], "tokens": assume[1]}}


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
    from luthier.stages.pace import draw_pace, length_in_steps, length_of

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
    from luthier.stages import find_rate as stage
    from luthier.training.range_test import Rates

    resolved = resolve(recipe, changes).model_copy(update={"keep": None})
    resolved.require_one_task("luthier train --find-lr")
    prepared = prepare(resolved)
    where = Path(folder or resolved.output or f"find-lr-{_stem(resolved)}")
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
    from luthier.stages.evaluate import evaluate_run

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


def describe_adapter(path: str | Path) -> dict[str, Any]:
    """Return what a run's adapter is made of: method, settings, base, numbers of parameters, modules."""
    from luthier.stages.adapted import describe_adapter as described

    run = RunFolder.open(path)
    run.require_finished()
    run.require_one_task()
    return described(run)


def merge(path: str | Path, folder: str | Path | None = None) -> dict[str, Any]:
    """Write a run's adapter into its base: a plain model folder, whose logits are compared with those of the run.

    Args:
        path: A finished run with an adapter.
        folder: Where the model goes; none: `merged` in the run folder.

    Returns:
        The object that `luthier merge --json` prints.
    """
    from luthier.stages.merge import merge_run

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
    from luthier.stages.mix import mix

    named = list(paths)
    shares = [1 / max(len(named), 1)] * len(named) if weights is None else list(weights)
    return mix(named, Path(folder), Mixture(tuple(shares), method, density))


def free_name(recipe: Recipe) -> str:
    """Return the next free run folder: runs/, the name of the data, and a number."""
    name, number = _stem(recipe), 1
    while Path(f"runs/{name}-{number:03d}").exists():
        number += 1
    return f"runs/{name}-{number:03d}"


def _stem(recipe: Recipe) -> str:
    """Return the name of the data, or the names of the tasks."""
    if recipe.tasks is not None:
        return "-".join(entry.name for entry in recipe.tasks)
    stem = Path(recipe.data.train or "run").name.partition(".")[0] or "run"
    parent = Path(recipe.data.train or "run").parent.name
    return f"{parent}-{stem}" if stem == "train" and parent else stem
