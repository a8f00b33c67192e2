"""A training under way: the run folder is taken, the rows are prepared, every step is a tick, and at the end the run is written up."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
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
    from luthier.data.prepared import Prepared
    from luthier.stages.layout.begin import Bench
    from luthier.stages.running.train import Trainer
    from luthier.training.world import World


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
            from luthier.stages.layout.same_recipe import refuse_another_recipe

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
        from luthier.stages.running.train import Trainer

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
        from luthier.stages.results.finish import finish, keep_best
        from luthier.stages.results.finish_several import finish_several, settled
        from luthier.training.checkpoint.space import estimated_bytes
        from luthier.training.patience import until_written

        needed = estimated_bytes(bench.parts) * len(self.recipe.sources)
        keep_best(bench, self.run)
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
                prepared = self.recipe.task.prepare(self.recipe.data, self.recipe.model)
            except BadRowsError as error:
                files.write_json_lines(self.run.quarantine, (row.as_dict() for row in error.bad))
                raise
        folder = self.world.shared(prepared.folder if prepared else Path())
        if prepared is not None:
            return prepared
        return Prepared.open(folder, from_cache=True) if folder.is_dir() else self.recipe.task.prepare(self.recipe.data, self.recipe.model)


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


def free_name(recipe: Recipe) -> str:
    """Return the next free run folder: runs/, the name of the data, and a number."""
    name, number = stem_of(recipe), 1
    while Path(f"runs/{name}-{number:03d}").exists():
        number += 1
    return f"runs/{name}-{number:03d}"


def stem_of(recipe: Recipe) -> str:
    """Return the name of the data, or the names of the tasks."""
    if recipe.tasks is not None:
        return "-".join(entry.name for entry in recipe.tasks)
    stem = Path(recipe.data.train or "run").name.partition(".")[0] or "run"
    parent = Path(recipe.data.train or "run").parent.name
    return f"{parent}-{stem}" if stem == "train" and parent else stem
