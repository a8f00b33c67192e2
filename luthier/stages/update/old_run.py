"""The finished run that is tuned further: its model, its labels, its rows."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from luthier.core import files
from luthier.core.errors import ConfigError, Fault, UserError
from luthier.core.model_folder import SETTINGS
from luthier.core.run_folder import RunFolder
from luthier.core.work import Parts
from luthier.data.prepared import Prepared, PreparedSplit
from luthier.recipe import Recipe, resolve_begun
from luthier.tasks.task import Work

log = logging.getLogger("luthier")
WITHOUT_ROWS = "put them back, or do without them: leave out keep.replay, keep.ewc and keep.fisher_mask, and set training.l2_sp=100"


class OldRowsGone(UserError):
    """The rows that a run was trained on are not there, or are others now."""


@dataclass(frozen=True)
class OldRun:
    """A finished run that is tuned further.

    Args:
        run: Its folder.
        recipe: Its recipe.
        model: Folder of its whole model.
    """

    run: RunFolder
    recipe: Recipe
    model: Path

    @classmethod
    def of(cls, recipe: Recipe) -> OldRun:
        """Open the run that a recipe names.

        Raises:
            ConfigError: if it is no finished run, of another type of task, or has an adapter alone.
        """
        keep = recipe.keep
        assert keep is not None, "the recipe tunes no run further"
        run = RunFolder(keep.run)
        fault = _fault(run, keep.model, recipe.task.registered_name)
        if fault is not None:
            raise ConfigError([Fault("keep.run", *fault)])
        return cls(run, resolve_begun(run.recipe), keep.model)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Its labels, in the order of its scores; none where it writes."""
        return tuple(self._settings.get("labels", ()))

    @property
    def multi_label(self) -> bool:
        """Whether a row of it can have several labels."""
        return bool(self._settings.get("multi_label"))

    def restored(self) -> tuple[Work, Parts]:
        """Return its work and a copy of its model of one's own."""
        return self.recipe.task.restore(self.model)

    @cached_property
    def prepared(self) -> Prepared:
        """Its rows.

        Raises:
            OldRowsGone: if they cannot be read, or are not what the run was trained on.
        """
        try:
            found = self.recipe.task.prepare(self.recipe.data, self.recipe.model)
        except UserError as error:
            first = str(error).splitlines()[0]
            raise OldRowsGone(f"the rows of '{self.run.path}' cannot be read: {first}", where="keep", fix=WITHOUT_ROWS) from error
        then = files.read_json(self.run.data).get("fingerprint") if self.run.data.is_file() else None
        if then is not None and then != found.facts.get("fingerprint"):
            what = f"the rows of '{self.run.path}' are not those it was trained on: their files have changed"
            raise OldRowsGone(what, where="keep", fix=WITHOUT_ROWS)
        return found

    @property
    def measured(self) -> tuple[str, PreparedSplit] | None:
        """Name and rows of the split that it was measured on, or None where it held nothing out.

        Raises:
            OldRowsGone: if they cannot be read.
        """
        splits = self.prepared.splits
        return next(((name, splits[name]) for name in ("test", "validation") if len(splits.get(name, ()))), None)

    @cached_property
    def earlier(self) -> tuple[OldRun, ...]:
        """The runs that it was tuned from in its turn, latest first, as far as they had its head; says where one of them is gone."""
        keep = self.recipe.keep
        if keep is None or keep.labels != "join":
            return ()
        try:
            before = OldRun.of(self.recipe)
        except ConfigError as error:
            log.warning("the run that '%s' came from is left out: %s", self.run.path, error.faults[0].message)
            return ()
        return (before, *before.earlier)

    @cached_property
    def _settings(self) -> dict[str, Any]:
        found: dict[str, Any] = files.read_json(self.model / SETTINGS)
        return found


def _fault(run: RunFolder, model: Path, task: str) -> tuple[str, str] | None:
    """Return what is wrong with a run that is to be tuned further, and what to do."""
    if not run.path.is_dir():
        return f"no run folder at '{run.path}'", "list the runs here with: luthier runs"
    if not run.recipe.is_file():
        fix = f"a plain model folder is tuned with model.path={run.path}, without keep"
        return f"'{run.path}' is not a run folder: it has no recipe.yaml", fix
    if not run.finished or not (run.model / SETTINGS).is_file():
        missing = "metrics.json" if run.model.is_dir() and not run.metrics.is_file() else "model/"
        return f"the run '{run.path}' is half written: it has no {missing}", f"finish it with: luthier train --resume {run.path}"
    settings = files.read_json(run.model / SETTINGS)
    if settings.get("task") != task:
        what = f"the run '{run.path}' is of {settings.get('task')}, and the task is {task}"
        return what, f"task={settings.get('task')}, or tune its model without keep: model.path={run.model}"
    if "adapter" in settings and model == run.model:
        what = f"the model of '{run.path}' is an adapter beside a base, and whole weights are tuned here"
        return what, f"write it into its base first: luthier merge {run.path}"
    return None
