"""The trials of a sweep in an Optuna study, stored as sqlite in the sweep's folder."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from luthier.core import files, yaml
from luthier.core.errors import ConfigError, Fault, SetupError
from luthier.workflows.sweep.section import SweepPlan
from luthier.workflows.sweep.space import combinations

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

DATABASE, SETTINGS = "trials.db", "sweep.yaml"
INSTALL = "pip install 'luthier[sweep]'"
MOST_RANDOM, LEAST_RANDOM = 10, 3  # trials before tpe begins to learn from them
TRIALS_BEFORE_PRUNING = 3
SECONDS_FOR_A_LOCK = 60.0  # that a process waits for another to write
SEEDS_APART = 100_003


def open_study(plan: SweepPlan, place: int = 0) -> Study:
    """Return the study in the sweep's folder, begun anew where there is none.

    Args:
        plan: The sweep.
        place: Which of the processes at work this is, from 0: each draws values of its own.

    Raises:
        SetupError: if Optuna is not installed.
        ConfigError: if the folder holds another sweep.
    """
    try:
        import optuna
    except ImportError:
        raise SetupError("a sweep needs Optuna, which is not installed", fix=INSTALL) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    _same_sweep(plan)
    url = f"sqlite:///{(plan.folder / DATABASE).resolve()}"
    storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": SECONDS_FOR_A_LOCK}})
    direction = optuna.study.StudyDirection.MAXIMIZE if plan.greater_is_better else optuna.study.StudyDirection.MINIMIZE
    study = optuna.create_study(study_name="sweep", storage=storage, direction=direction, pruner=_pruner(plan), load_if_exists=True)
    study.sampler = _sampler(plan, begun=len(study.trials) + place * SEEDS_APART)
    if plan.file.sampler == "grid" and not study.trials:
        for values in combinations(plan.space):
            study.enqueue_trial(values)
    return study


def left_behind(study: Study) -> list[Trial]:
    """Return the trials that were under way when the sweep stopped."""
    from optuna.trial import Trial, TrialState

    return [Trial(study, trial._trial_id) for trial in study.get_trials(states=(TrialState.RUNNING,))]


def num_begun(study: Study) -> int:
    """Return how many trials were begun, those that failed among them."""
    from optuna.trial import TrialState

    return sum(trial.state != TrialState.WAITING for trial in study.trials)


def ended_well(study: Study) -> list[FrozenTrial]:
    """Return the trials that have a score, the best first; of equal ones the earlier."""
    from optuna.study import StudyDirection
    from optuna.trial import TrialState

    sign = -1 if study.direction == StudyDirection.MAXIMIZE else 1
    return sorted(study.get_trials(states=(TrialState.COMPLETE,)), key=lambda trial: (sign * (trial.value or 0.0), trial.number))


def _same_sweep(plan: SweepPlan) -> None:
    """Write down what the sweep does, or refuse to go on with one that does something else."""
    path, wanted = plan.folder / SETTINGS, plan.as_dict()
    if not path.is_file():
        if plan.folder.exists() and (not plan.folder.is_dir() or any(one.name != ".lock" for one in plan.folder.iterdir())):
            raise ConfigError([Fault("output", f"'{plan.folder}' exists and holds no sweep", "name another folder with --output")])
        plan.folder.mkdir(parents=True, exist_ok=True)
        files.write_text(path, yaml.dump(wanted))
        return
    before = yaml.load_file(path)
    faults = [
        Fault(key, f"{_short(before.get(key))} in the sweep that was begun, {_short(value)} now", "name another --output")
        for key, value in wanted.items()
        if before.get(key) != value
    ]
    if faults:
        raise ConfigError(faults, where=str(plan.folder))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else "something else" if isinstance(value, dict) else f"{text[:57]}..."


def _sampler(plan: SweepPlan, *, begun: int) -> BaseSampler:
    """Return what picks values; its seed counts the trials, so that a sweep that goes on does not pick the first ones again."""
    import optuna
    from optuna import samplers

    seed = plan.file.seed + begun
    if plan.file.sampler == "tpe":
        first = min(MOST_RANDOM, max(LEAST_RANDOM, plan.num_trials // 3))
        with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
            return samplers.TPESampler(seed=seed, n_startup_trials=first, constant_liar=plan.file.workers > 1)
    if plan.file.sampler == "cmaes":
        try:
            import cmaes  # noqa: F401
        except ImportError:
            raise SetupError("the sampler cmaes needs the package cmaes, which is not installed", fix=INSTALL) from None
        return samplers.CmaEsSampler(seed=seed, n_startup_trials=LEAST_RANDOM)
    return samplers.RandomSampler(seed=seed)


def _pruner(plan: SweepPlan) -> BasePruner:
    from optuna import pruners

    if plan.file.pruner == "median":
        return pruners.MedianPruner(n_startup_trials=TRIALS_BEFORE_PRUNING)
    if plan.file.pruner == "asha":
        return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    return pruners.NopPruner()
