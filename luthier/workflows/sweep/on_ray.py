"""A sweep on Ray Tune: Ray finds a place for each trial on the machines of a cluster; what is tried, and what ends early, is decided here.

The trials are those of the same storage, in the same folders, which every machine has to see.

Reference: https://docs.ray.io/en/latest/tune/api/suggestion.html
"""

from __future__ import annotations

import importlib.util
import json
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from luthier.core.errors import Interrupted, LuthierError, SetupError
from luthier.core.machine import available_cores
from luthier.core.run_folder import RunFolder
from luthier.training.signals import StopSignal
from luthier.workflows.ray_worker import Job, settle
from luthier.workflows.sweep.section import SweepPlan
from luthier.workflows.sweep.study import left_behind, num_begun, open_study
from luthier.workflows.sweep.sweep import all_failed, findings_and_best, refuse_failures
from luthier.workflows.sweep.trial import TrialRun, facts_of, trial_folder

if TYPE_CHECKING:
    from optuna.trial import Trial

INSTALL = "pip install 'luthier[ray,sweep]', on every machine of the cluster"
GO_ON = "go on with the same command: what is done is not done again"
SECONDS_BETWEEN_LOOKS = 0.2
SAID = "said"  # the one key of a report: what is said, as JSON


class RemoteTrial:
    """Stands for a trial and for its study where the trial is done: what is said of it is handed to Ray.

    Args:
        number: Number of the trial.
        params: What the sampler picked, as the storage has it.
        user_attrs: What was noted of it before.
        report: Takes what is said, as `ray.tune.report` does.
    """

    def __init__(self, number: int, params: Mapping[str, Any], user_attrs: Mapping[str, Any], report: Any) -> None:
        self.number, self.user_attrs, self._params, self._report = number, dict(user_attrs), params, report

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return what was picked."""
        return self._params[name]

    def suggest_int(self, name: str, low: int, high: int, **shape: Any) -> Any:
        """Return what was picked."""
        return self._params[name]

    def suggest_float(self, name: str, low: float, high: float, **shape: Any) -> Any:
        """Return what was picked."""
        return self._params[name]

    def set_user_attr(self, name: str, value: Any) -> None:
        """Note something; it travels with the next report."""
        self.user_attrs[name] = value

    def report(self, value: float, step: int) -> None:
        """Say a validation score; whether the trial ends early is decided where all trials are known."""
        self._say({"score": value, "evaluation": step})

    def should_prune(self) -> bool:
        """Return False: Ray ends the process of a trial that is behind."""
        return False

    def tell(self, trial: RemoteTrial, value: float | None, *, state: Any) -> None:
        """Say how the trial ended."""
        self._say({"ended": state.name, "value": value})

    def _say(self, said: dict[str, Any]) -> None:
        self._report({SAID: json.dumps({**said, "noted": self.user_attrs})})


def do_trial(config: Mapping[str, Any]) -> None:
    """Do one trial in a process of Ray.

    Args:
        config: `asked`: number, parameters and notes of the trial; `plan`; `job`: working folder, files of code, a sign of the folder.
    """
    from ray import tune

    remote: Any = RemoteTrial(**config["asked"], report=tune.report)
    try:
        settle(config["job"])
    except LuthierError as error:
        remote.set_user_attr("error", str(error))
        remote.tell(remote, None, state=SimpleNamespace(name="FAIL"))
        return
    for _ in TrialRun(config["plan"], remote, remote, seconds_left=float("inf")):
        pass


class Ledger:
    """What Ray is handed next, and what becomes of it: the seam between Ray's names of trials and the study.

    Args:
        plan: The sweep.
        study: Its trials.
    """

    def __init__(self, plan: SweepPlan, study: Any) -> None:
        self.plan, self.study = plan, study
        self.ended: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._under_way: dict[str, Trial] = {}
        self._last: dict[str, dict[str, Any]] = {}
        self._pruned: set[str] = set()
        self._begun = left_behind(study)

    def __deepcopy__(self, memo: Any) -> Ledger:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray keeps a copy to restore a sweep from, which nobody does: the study is stored

    def ask(self, name: str) -> dict[str, Any] | None:
        """Return the next trial for Ray, first those that were under way when the sweep stopped; None where there is none."""
        if self._begun:
            trial = self._begun.pop(0)
        elif num_begun(self.study) < self.plan.num_trials and not all_failed(self.study):
            trial = self.study.ask()
        else:
            return None
        for key, tried in self.plan.space.items():
            tried.suggest(trial, key)
        self._under_way[name] = trial
        return {"number": trial.number, "params": dict(trial.params), "user_attrs": dict(trial.user_attrs)}

    def hear(self, name: str, reported: Mapping[str, Any]) -> bool:
        """Take what a trial says; returns whether it is behind the others and ends here."""
        trial, said = self._under_way[name], json.loads(reported.get(SAID, "{}"))
        for key, value in said.get("noted", {}).items():
            trial.set_user_attr(key, value)
        if "ended" in said:
            self._last[name] = said
        if "score" not in said:
            return False
        trial.report(said["score"], said["evaluation"])
        if trial.should_prune():
            self._pruned.add(name)
            return True
        return False

    def close(self, name: str, *, lost: bool) -> None:
        """Write down how a trial ended; one that said nothing goes on when the sweep does, unless its process was lost."""
        from optuna.trial import TrialState

        trial, last = self._under_way.pop(name), self._last.get(name)
        if last is not None:
            self.study.tell(trial, last["value"], state=TrialState[last["ended"]])
        elif name in self._pruned:
            self.study.tell(trial, state=TrialState.PRUNED)
            if not self.plan.file.keep_checkpoints:
                shutil.rmtree(trial_folder(self.plan, trial.number).checkpoints, ignore_errors=True)
        elif lost:
            trial.set_user_attr("error", "its process was lost, perhaps for lack of memory")
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            return
        self.ended.put(trial.number)


class OnRay:
    """A sweep under way on Ray Tune: iterate over it for the trials that ended, as they stand in `sweep.json`.

    Args:
        plan: What is tried, checked.
        code: Files with parts of the user's own.

    Raises:
        SetupError: if Ray is not installed.
    """

    def __init__(self, plan: SweepPlan, code: Sequence[str] = ()) -> None:
        if importlib.util.find_spec("ray") is None:
            raise SetupError("--cluster ray needs Ray, which is not installed", fix=INSTALL)
        self.plan = replace(plan, folder=plan.folder.absolute())
        self._code = tuple((str(Path(path).absolute()), Path(path).read_text(encoding="utf-8")) for path in code)
        self._lock = RunFolder(plan.folder)
        self._study = open_study(plan)
        self._failure: BaseException | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Have Ray do the trials, and yield each as it ends.

        Raises:
            Interrupted: on Ctrl-C or SIGTERM; the trials under way go on from their last checkpoints when the sweep does.
        """
        from luthier.workflows.ray_cluster import connected, sign_beside

        self._lock.take()
        ledger = Ledger(self.plan, self._study)
        try:
            with StopSignal() as stop, connected(self.plan.file.workers), sign_beside(self.plan.folder / "trials") as sign:
                job = Job(None, str(self.plan.folder), True, self._code, folder=str(Path.cwd()), sign=str(sign), started=time.time())
                fitting = threading.Thread(target=self._fit, args=(ledger, job), daemon=True)  # in the main thread Ray would take Ctrl-C
                fitting.start()
                yield from self._followed(fitting, ledger, stop)
        finally:
            self._lock.leave()

    def findings(self) -> dict[str, Any]:
        """Return what was found, after writing it into the sweep's folder: the object that `luthier sweep --json` prints."""
        return findings_and_best(self.plan, self._study)

    def _followed(self, fitting: threading.Thread, ledger: Ledger, stop: StopSignal) -> Iterator[dict[str, Any]]:
        is_alive = True
        while is_alive:
            is_alive = fitting.is_alive()
            time.sleep(SECONDS_BETWEEN_LOOKS)
            if stop.received is not None:
                raise Interrupted("stopped; the trials under way are at their last checkpoints", exit_code=stop.exit_code, fix=GO_ON)
            while not ledger.ended.empty():
                number = ledger.ended.get()
                yield facts_of(self.plan, next(trial for trial in self._study.trials if trial.number == number))
        if self._failure is not None:
            raise self._failure
        refuse_failures(self.plan, self._study)

    def _fit(self, ledger: Ledger, job: Job) -> None:
        """Run Ray Tune to its end, in a thread; its own files are temporary."""
        import ray
        from ray import tune

        workers = self.plan.file.workers
        wanted = {"cpu": max(1, available_cores() // workers), "gpu": 1 if ray.cluster_resources().get("GPU", 0) > 0 else 0}
        spent = sum(trial.user_attrs.get("seconds", 0.0) for trial in self._study.trials) / workers
        hours = self.plan.file.hours
        given = {"plan": self._with_threads(int(wanted["cpu"])), "job": job}
        try:
            with tempfile.TemporaryDirectory(prefix="luthier-ray-", ignore_cleanup_errors=True) as own:
                tune.Tuner(
                    tune.with_resources(tune.with_parameters(_handed, given=given), wanted),
                    tune_config=tune.TuneConfig(
                        search_alg=_asks(ledger),
                        num_samples=-1,
                        max_concurrent_trials=workers,
                        time_budget_s=None if hours is None else max(1.0, hours * 3600 - spent),
                    ),
                    run_config=tune.RunConfig(name="sweep", storage_path=own, stop=_listens(ledger), verbose=0),
                ).fit()
        except BaseException as error:  # raised again where the trials are taken
            self._failure = error

    def _with_threads(self, cores: int) -> SweepPlan:
        """Return the plan with as many threads for each trial as Ray sets cores aside for it."""
        training = {"threads": cores, **self.plan.base["training"]}
        return replace(self.plan, base={**self.plan.base, "training": training})


def _handed(config: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Do one trial with what Ray carries for all of them."""
    do_trial({**config, **given})


def _asks(ledger: Ledger) -> Any:
    """Return what Ray Tune asks for the next trial."""
    from ray.tune.search import Searcher

    class Asks(Searcher):
        def suggest(self, trial_id: str) -> Any:
            asked = ledger.ask(trial_id)
            return Searcher.FINISHED if asked is None else {"asked": asked}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            ledger.close(trial_id, lost=error)

        def save(self, checkpoint_path: str) -> None:
            """Keep nothing: the study is stored."""

        def restore(self, checkpoint_path: str) -> None:
            """Take nothing up: the study is stored."""

    return Asks()


def _listens(ledger: Ledger) -> Any:
    """Return what Ray Tune asks after each report whether the trial ends."""
    from ray.tune import Stopper

    class Listens(Stopper):
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return ledger.hear(trial_id, result)

        def stop_all(self) -> bool:
            return False

    return Listens()
