"""A sweep: trials one after the other, until their number or the time is reached; started again it goes on."""

from __future__ import annotations

import fcntl
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
ASKING = ".asking"


@dataclass(frozen=True)
class Share:
    """What one of several processes does of a sweep.

    Args:
        place: Which of them it is, from 0.
        workers: How many there are.
        begun: Numbers of the trials that it takes up, which were under way when the sweep stopped.
    """

    place: int
    workers: int
    begun: Sequence[int]


class Sweep:
    """A sweep under way: iterate over it for its trials, and over each trial for its ticks.

    Args:
        plan: What is tried, checked.
        share: What this process does of it; none: all.
    """

    def __init__(self, plan: SweepPlan, share: Share | None = None) -> None:
        self.plan, self._share = plan, share
        self._lock = RunFolder(plan.folder)
        self._study = open_study(plan, share.place if share else 0)

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
        if self._share is None:
            self._lock.take()
        try:
            for trial in left_behind(self._study):
                if self._share is None or trial.number in self._share.begun:
                    log.info("trial %d was under way when the sweep stopped: it goes on", trial.number)
                    yield from self._one(trial)
            while (asked := self._next()) is not None:
                yield from self._one(asked)
        finally:
            self._lock.leave()

    def findings(self) -> dict[str, Any]:
        """Return what was found, after writing it into the sweep's folder: the object that `luthier sweep --json` prints."""
        return findings_of(self.plan, self._study)

    def _next(self) -> Any:
        """Return the next trial, or None where there is none; one process at a time asks, so that there is none too many."""
        with (self.plan.folder / ASKING).open("w") as asking:
            fcntl.lockf(asking, fcntl.LOCK_EX)
            if num_begun(self._study) >= self.plan.num_trials or self._seconds_left() <= 0:
                return None
            return self._study.ask()

    def _one(self, trial: Any) -> Iterator[TrialRun]:
        if self._seconds_left() <= 0:
            return
        run = TrialRun(self.plan, self._study, trial, seconds_left=self._seconds_left())
        yield run
        if run.state == "complete":
            write_best(self.plan, self._study)
        refuse_failures(self.plan, self._study)

    def _seconds_left(self) -> float:
        """Return the seconds for this process: with several, all of them spend the time at once."""
        hours = self.plan.file.hours
        spent = sum(trial.user_attrs.get("seconds", 0.0) for trial in self._study.trials)
        return math.inf if hours is None else hours * 3600 - spent / (self._share.workers if self._share else 1)


def all_failed(study: Any) -> bool:
    """Whether three trials ended or more, and all of them failed."""
    ended = [trial.state.name for trial in study.trials if trial.state.is_finished()]
    return len(ended) >= MOST_FAILURES_AT_FIRST and set(ended) == {"FAIL"}


def refuse_failures(plan: SweepPlan, study: Any) -> None:
    """Stop a sweep whose first trials all failed.

    Args:
        plan: The sweep.
        study: Its trials.

    Raises:
        RunStopped: if there are three or more, and what the last one said.
    """
    if all_failed(study):
        ended = [trial for trial in study.trials if trial.state.is_finished()]
        what = f"all of the first {len(ended)} trials failed; the last one: {ended[-1].user_attrs.get('error')}"
        raise RunStopped(what, where=str(plan.folder), fix="mend the recipe, and name another folder with --output")


def findings_and_best(plan: SweepPlan, study: Any) -> dict[str, Any]:
    """Return what is known of all trials of a sweep that other processes did, after writing it and the best recipe.

    Args:
        plan: The sweep.
        study: Its trials.
    """
    write_best(plan, study)
    return findings_of(plan, study)


def sweep(source: str | Path | Mapping[str, Any], changes: Changes = (), **overrides: Any) -> dict[str, Any]:
    """Do a sweep to its end in this process and return what was found; the arguments are those of `Sweep.begin`."""
    begun = Sweep.begin(source, changes, **overrides)
    for trial in begun:
        for _ in trial:
            pass
    return begun.findings()
