"""One trial of a sweep: a training that ends early where its validation scores are behind those of the others."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, cast

from luthier.core import files
from luthier.core.errors import Interrupted, LuthierError
from luthier.core.run_folder import RunFolder
from luthier.core.tick import Tick
from luthier.flow import Training
from luthier.tasks.several.scores import scores_by_split
from luthier.workflows.sweep.section import SweepPlan
from luthier.workflows.sweep.space import in_order

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import Trial

log = logging.getLogger("luthier")


class TrialRun:
    """A trial: iterate over it for the ticks of its training; afterwards `state` says how it ended.

    Args:
        plan: The sweep.
        study: Where the trials are kept.
        trial: This one.
        seconds_left: Seconds of the sweep's time that are left.
    """

    def __init__(self, plan: SweepPlan, study: Study, trial: Trial, *, seconds_left: float) -> None:
        self.number = trial.number
        self.values = {key: tried.suggest(trial, key) for key, tried in plan.space.items()}
        self.run = trial_folder(plan, trial.number)
        self.state = "unfinished"
        self.value: float | None = None
        self.error: str | None = None
        self._plan, self._study, self._trial, self._seconds_left = plan, study, trial, seconds_left
        self._before, self._began = float(trial.user_attrs.get("seconds", 0.0)), 0.0

    def __iter__(self) -> Iterator[Tick]:
        """Train; a fault of this trial alone ends it as failed, and the sweep goes on.

        Raises:
            Interrupted: on Ctrl-C or SIGTERM; the trial goes on when the sweep does.
        """
        self._began = time.monotonic()
        try:
            yield from self._ticks()
        except Interrupted as stop:
            fix = "go on with the same command: what is done is not done again"
            raise Interrupted(f"stopped in trial {self.number}", exit_code=stop.exit_code, fix=fix) from stop
        except Exception as error:  # whatever it is, one bad combination does not end a search
            log.debug("trial %d failed", self.number, exc_info=error)
            self._end("failed", error=_said(error))
        finally:
            if self.state == "unfinished":
                self._note_seconds()

    def _ticks(self) -> Iterator[Tick]:
        training = self._training()
        ticks = cast("Generator[Tick]", iter(training))
        num_scored: int | None = None
        with closing(ticks):
            for tick in ticks:
                num_scored = self._scored_before(tick) if num_scored is None else num_scored
                yield tick
                if tick.scores:
                    num_scored += 1
                    self._note_seconds()
                    self._trial.report(tick.scores["validation"][self._plan.metric], num_scored)
                if tick.step == tick.total_steps:
                    continue
                if tick.scores and self._trial.should_prune():
                    self._end("pruned")
                    return
                if time.monotonic() - self._began > self._seconds_left:
                    return
        assert training.metrics is not None
        value = scores_by_split(training.metrics)["validation"][self._plan.metric]["value"]
        if value is None:
            self._end("failed", error=f"{self._plan.metric} is undefined on the validation rows")
        else:
            self._end("complete", value=value)

    def _training(self) -> Training:
        metric = self._plan.metric
        own = {"output": str(self.run.path), "evaluate.baseline": False}
        own |= {} if "best_metric" in self._plan.base["training"] else {"training.best_metric": metric}
        return Training.begin(self._plan.base, changes=[*in_order(self.values), *own.items()], again=True)

    def _scored_before(self, tick: Tick) -> int:
        """Return how often the run was scored before a step, perhaps before the sweep was stopped."""
        if not self.run.events.is_file():
            return 0
        events = files.read_json_lines(self.run.events)
        return sum("scores" in event and event.get("at_step", event.get("step")) < tick.step for event in events)

    def _note_seconds(self) -> None:
        self._trial.set_user_attr("seconds", self._before + time.monotonic() - self._began)

    def _end(self, state: str, *, value: float | None = None, error: str | None = None) -> None:
        from optuna.trial import TrialState

        self.state, self.value, self.error = state, value, error
        self._note_seconds()
        if error is not None:
            self._trial.set_user_attr("error", error)
        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        self._study.tell(self._trial, value, state=states[state])
        if not self._plan.file.keep_checkpoints:
            shutil.rmtree(self.run.checkpoints, ignore_errors=True)


def _said(error: Exception) -> str:
    return str(error).strip() if isinstance(error, LuthierError) else f"{type(error).__name__}: {error}".strip()


def trial_folder(plan: SweepPlan, number: int) -> RunFolder:
    """Return the run folder of a trial.

    Args:
        plan: The sweep.
        number: Number of the trial.
    """
    return RunFolder(plan.folder / "trials" / f"{number:03d}")


def facts_of(plan: SweepPlan, trial: Any) -> dict[str, Any]:
    """Return what is known of a stored trial, as it stands in `sweep.json`.

    Args:
        plan: The sweep.
        trial: A trial of the study.
    """
    states = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "unfinished"}
    values = {key: json.loads(value) if isinstance(value, str) else value for key, value in trial.params.items()}
    return {
        "trial": trial.number,
        "state": states[trial.state.name],
        "values": values,
        "score": trial.value if trial.state.name == "COMPLETE" else None,
        "scores_while_training": [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)],
        "seconds": round(trial.user_attrs.get("seconds", 0.0), 1),
        "error": trial.user_attrs.get("error"),
        "run": str(trial_folder(plan, trial.number).path),
    }
