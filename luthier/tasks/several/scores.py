"""Scores of several tasks beside each other: their names, and one number that says how all of them do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from luthier.core.errors import ConfigError, Fault
from luthier.core.names import did_you_mean
from luthier.tasks.task import Task

MEAN = "score"


def scores_of(task: Task) -> list[str]:
    """Return the names of the scores that a task has."""
    from luthier.metrics.intervals import score_keys

    return list(task.own_scores) or ["loss", *score_keys(ordered=task.ordered)]


def scores_that_choose(tasks: Mapping[str, Task]) -> list[str]:
    """Return the scores that can choose the best step: the mean of the primary ones, and those of each task that are known by then."""
    return [MEAN, *(f"{name}/{score}" for name, task in tasks.items() for score in scores_of(task) if score not in task.text_scores)]


def scores_by_split(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the scores in a `metrics.json` by split and name, those of several tasks as `NAME/score`.

    Args:
        metrics: What the file holds.
    """
    found: dict[str, dict[str, Any]] = {split: dict(scores) for split, scores in metrics["scores"].items()}
    for name, of_task in metrics.get("tasks", {}).items():
        for split, scores in of_task["scores"].items():
            found.setdefault(split, {}).update({f"{name}/{score}": value for score, value in scores.items()})
    return found


def metric_of_several(named: str | None, tasks: Mapping[str, Task], shown: Sequence[str] | None) -> str:
    """Return what runs of several tasks are compared by: the mean of the primary scores, or a score of one task.

    Args:
        named: The score that is wanted, such as `reviews/accuracy`; none: the mean.
        tasks: The tasks.
        shown: `evaluate.metrics` of the recipe.

    Raises:
        ConfigError: if there is no such score, or it is not among those that are shown.
    """
    known, metric = scores_that_choose(tasks), named or MEAN
    if metric not in known:
        raise ConfigError([Fault("metric", f"unknown score '{metric}'", did_you_mean(metric, known))])
    wanted = {task.headline() for task in tasks.values()} if metric == MEAN else {metric.partition("/")[2]}
    lacking = sorted(wanted - set(shown)) if shown is not None else []
    if lacking:
        what = f"'{metric}' is made from {', '.join(lacking)}, not among evaluate.metrics of the recipe"
        raise ConfigError([Fault("metric", what, "add it there, or leave evaluate.metrics out")])
    return metric


def wanted_of(task: Task, wanted: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return those of the wanted scores that a task has; all of its own where it has none of them, or none are named."""
    return tuple(score for score in wanted or () if score in scores_of(task)) or None


def upwards(task: Task, value: float | None) -> float:
    """Return a primary score such that more is better; one that counts down becomes a number from 0 to 1, as shares are.

    A loss counts as exp(-loss), of a model that writes the mean probability of a token; a perplexity as 1 / perplexity, which is the
    same; another score that counts down as 1 / (1 + score). What is undefined, such as a correlation with equal answers, counts as 0.

    Args:
        task: The task that has the score.
        value: Its primary score.
    """
    name = task.headline()
    if value is None or math.isnan(value):
        return 0.0
    if task.greater_is_better(name):
        return value
    return {"loss": math.exp(-value), "perplexity": 1 / max(value, 1.0)}.get(name, 1 / (1 + max(value, 0.0)))


def mean_of_primary(scores: Mapping[str, Mapping[str, float | None]], tasks: Mapping[str, Task]) -> float:
    """Return the mean of the tasks' primary scores, each as `upwards` gives it.

    Args:
        scores: Values by task and score.
        tasks: The tasks.
    """
    return sum(upwards(tasks[name], of_task.get(tasks[name].headline())) for name, of_task in scores.items()) / len(scores)
