"""A sweep: trials one after the other, until their number or the time is reached; started again it goes on."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from luthier.core.errors import RunStopped
from luthier.core.run_folder import RunFolder
from luthier.recipe import Changes
from luthier.workflows.sweep.findings import findings_of, write_best
from luthier.workflows.sweep.section import SweepPlan, read_sweep
from luthier.workflows.sweep.study import left_behind, num_begun, open_study
from luthier.workflows.sweep.trial import TrialRun

log = logging.getLogger("luthier")
MOST_FAILURES_AT_FIRST = 3


class Sweep:
    """A sweep under way: iterate over it for its trials, and over each trial for its ticks.

    Args:
        plan: What is tried, checked.
    """

    def __init__(self, plan: SweepPlan) -> None:
        self.plan = plan
        self._lock = RunFolder(plan.folder)
        self._study = open_study(plan)

    @classmethod
    def begin(cls, source: str | Path | Mapping[str, Any], changes: Changes = (), **overrides: Any) -> Sweep:
        """Check a sweep file and open its folder; a sweep that was stopped is taken up.

        Args:
            source: A sweep file, or what would stand in it.
            changes: Changes to its recipe, by dotted key.
            overrides: Keys of the file that are said elsewhere, such as `trials=5`.

        Raises:
            ConfigError: if anything in it is wrong, or the folder holds another sweep.
            SetupError: if Optuna is not installed.
        """
        return cls(read_sweep(source, {key: value for key, value in overrides.items() if value is not None}, changes))

    def __iter__(self) -> Iterator[TrialRun]:
        """Yield each trial, to be iterated over before the next: first those that were under way when the sweep stopped.

        Raises:
            RunStopped: if the first three trials fail.
        """
        self._lock.take()
        try:
            for trial in left_behind(self._study):
                log.info("trial %d was under way when the sweep stopped: it goes on", trial.number)
                yield from self._one(trial)
            while num_begun(self._study) < self.plan.num_trials and self._seconds_left() > 0:
                yield from self._one(self._study.ask())
        finally:
            self._lock.leave()

    def findings(self) -> dict[str, Any]:
        """Return what was found, after writing it into the sweep's folder: the object that `luthier sweep --json` prints."""
        return findings_of(self.plan, self._study)

    def _one(self, trial: Any) -> Iterator[TrialRun]:
        if self._seconds_left() <= 0:
            return
        run = TrialRun(self.plan, self._study, trial, seconds_left=self._seconds_left())
        yield run
        if run.state == "complete":
            write_best(self.plan, self._study)
        trials = [trial for trial in self._study.trials if trial.state.is_finished()]
        if len(trials) >= MOST_FAILURES_AT_FIRST and all(trial.state.name == "FAIL" for trial in trials):
            what = f"all of the first {len(trials)} trials failed; the last one: {run.error}"
            raise RunStopped(what, where=str(self.plan.folder), fix="mend the recipe, and name another folder with --output")

    def _seconds_left(self) -> float:
        hours = self.plan.file.hours
        spent = sum(trial.user_attrs.get("seconds", 0.0) for trial in self._study.trials)
        return math.inf if hours is None else hours * 3600 - spent


def sweep(source: str | Path | Mapping[str, Any], changes: Changes = (), **overrides: Any) -> dict[str, Any]:
    """Do a sweep to its end and return what was found; the arguments are those of `Sweep.begin`."""
    begun = Sweep.begin(source, changes, **overrides)
    for trial in begun:
        for _ in trial:
            pass
    return begun.findings()
