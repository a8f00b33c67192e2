"""What a sweep found: its trials, the best recipe, and which keys mattered."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core import files, yaml
from luthier.explain.importance import importance_file
from luthier.tasks.several.scores import scores_by_split
from luthier.workflows.sweep.section import SweepPlan
from luthier.workflows.sweep.study import ended_well
from luthier.workflows.sweep.trial import facts_of

if TYPE_CHECKING:
    from optuna.study import Study

BEST, FINDINGS, IMPORTANCE = "best.yaml", "sweep.json", "importance.svg"
FEWEST_FOR_IMPORTANCE = 4
STATES = ("complete", "pruned", "failed", "unfinished")


def findings_of(plan: SweepPlan, study: Study) -> dict[str, Any]:
    """Return what is known of all trials, and write it with its picture into the sweep's folder.

    Args:
        plan: The sweep.
        study: Its trials.
    """
    trials = [facts_of(plan, trial) for trial in study.trials if trial.state.name != "WAITING"]
    counts = Counter(trial["state"] for trial in trials)
    importance = _importance(study)
    found = {
        "sweep": str(plan.folder),
        "metric": plan.metric,
        "greater_is_better": plan.greater_is_better,
        "sampler": plan.file.sampler,
        "pruner": plan.file.pruner,
        "counts": {state: counts[state] for state in STATES},
        "wanted_trials": plan.num_trials,
        "trials": trials,
        "best": _best(plan, study),
        "importance": importance,
        "seconds": round(sum(trial["seconds"] for trial in trials), 1),
    }
    if importance:
        files.write_text(plan.folder / IMPORTANCE, importance_file(importance, metric=plan.metric, num_trials=counts["complete"]))
    files.write_json(plan.folder / FINDINGS, found)
    return found


def write_best(plan: SweepPlan, study: Study) -> None:
    """Write the recipe of the best trial so far, with a value for all that was `auto`, so that training it does the same again."""
    ended = ended_well(study)
    if not ended:
        return
    recipe = yaml.load_file(Path(facts_of(plan, ended[0])["run"]) / "recipe.yaml")
    recipe.pop("output", None)
    recipe["evaluate"]["baseline"] = plan.base["evaluate"]["baseline"]
    files.write_text(plan.folder / BEST, yaml.dump(recipe))


def _best(plan: SweepPlan, study: Study) -> dict[str, Any] | None:
    """Return the best trial with its scores: those of the validation rows chose it, so those of the test rows say how good it is."""
    ended = ended_well(study)
    if not ended:
        return None
    facts = facts_of(plan, ended[0])
    scores = scores_by_split(files.read_json(Path(facts["run"]) / "metrics.json"))
    chosen = {split: keys[plan.metric] for split, keys in scores.items() if plan.metric in keys}
    return {**{key: facts[key] for key in ("trial", "values", "score", "run")}, "scores": chosen, "recipe": str(plan.folder / BEST)}


def _importance(study: Study) -> dict[str, float] | None:
    """Return how much of the differences of the scores each key explains; None where too few trials ended, or all alike.

    Reference: F. Hutter, H. Hoos and K. Leyton-Brown, An Efficient Approach for Assessing Hyperparameter Importance, 2014.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    ended = ended_well(study)
    if len(ended) < FEWEST_FOR_IMPORTANCE or len({trial.value for trial in ended}) < 2:
        return None
    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {key: round(share, 4) for key, share in found.items()}
