"""The flow, in its order: prepare, train, evaluate, predict. Each takes what the one before leaves."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core import files, machine
from luthier.core.errors import Interrupted
from luthier.core.run_folder import RunFolder
from luthier.core.tick import Tick
from luthier.recipe import Changes, Recipe, resolve

if TYPE_CHECKING:
    from luthier.core.work import Answer
    from luthier.data.prepared import Prepared

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
        started: When the command began, in seconds since the epoch.
        resumed: Whether the run was begun before.
    """

    def __init__(self, run: RunFolder, recipe: Recipe, *, started: float | None, resumed: bool) -> None:
        self.run, self.recipe = run, recipe
        self.metrics: dict[str, Any] | None = None
        self.resumed_from: int | None = 0 if resumed else None
        self._started = started or time.time()

    @classmethod
    def begin(cls, recipe: Any = None, *, changes: Changes = (), started: float | None = None) -> Training:
        """Start a new run: resolve the recipe and make the run folder.

        Raises:
            ConfigError: if the recipe is wrong or the folder is taken.
        """
        resolved = resolve(recipe, changes)
        path = resolved.output or free_name(resolved)
        run = RunFolder.create(path, recipe=resolved.as_dict(), environment=machine.environment())
        return cls(run, resolved, started=started, resumed=False)

    @classmethod
    def again(cls, path: str | Path, *, started: float | None = None) -> Training:
        """Take up a run folder; a finished one has nothing left to do."""
        run = RunFolder.open(path)
        training = cls(run, resolve(run.recipe), started=started, resumed=True)
        if run.finished:
            stored = files.read_json(run.metrics)
            training.metrics = {"resumed_from_step": stored["steps"], **stored}
        return training

    def __iter__(self) -> Iterator[Tick]:
        """Yield one Tick per optimiser step; after the last one the run is measured and its pages are written.

        Raises:
            Interrupted: on Ctrl-C or SIGTERM, after the state was saved.
        """
        if self.metrics is not None:
            return
        from luthier.stages.finish import finish
        from luthier.stages.train import Trainer

        trainer = Trainer.set_up(self.run, self.recipe, self._prepared(), resume=self.resumed_from is not None)
        self.recipe = trainer.bench.recipe
        if self.resumed_from is not None:
            self.resumed_from = trainer.bench.saved.state.step
        with trainer.stop:
            yield from trainer.ticks()
        if trainer.stop.received is not None:
            step = trainer.bench.saved.state.step
            raise Interrupted(
                f"stopped after step {step}; everything is saved in {self.run.path}",
                exit_code=trainer.stop.exit_code,
                fix=f"go on with: luthier train --resume {self.run.path}",
            )
        self.metrics = finish(trainer.bench, self.run, started=self._started, resumed_from=self.resumed_from)

    def _prepared(self) -> Prepared:
        """Return the encoded rows; where too many are bad, list them in the run folder before stopping."""
        from luthier.data.collect import BadRowsError

        try:
            return prepare(self.recipe)
        except BadRowsError as error:
            files.write_json_lines(self.run.quarantine, (row.as_dict() for row in error.bad))
            raise


def evaluate(path: str | Path, *, data: str | None = None, changes: Changes = (), started: float | None = None) -> dict[str, Any]:
    """Score a finished run: on its own held-out rows, or on other labelled rows.

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
    return evaluate_run(run, resolve(run.recipe, changes), data=data, started=started or time.time())


def predict(path: str | Path, texts: Iterable[str]) -> Iterator[Answer]:
    """Yield the answer of a run (or any classifier folder or hub id) to each text, in constant memory."""
    from luthier.serve.predictor import Predictor

    return Predictor.open(path).answer(texts)


def free_name(recipe: Recipe) -> str:
    """Return the next free run folder: runs/, the name of the data, and a number."""
    stem = Path(recipe.data.train or "run").name.partition(".")[0] or "run"
    parent = Path(recipe.data.train or "run").parent.name
    name = f"{parent}-{stem}" if stem == "train" and parent else stem
    number = 1
    while Path(f"runs/{name}-{number:03d}").exists():
        number += 1
    return f"runs/{name}-{number:03d}"
