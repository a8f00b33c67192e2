"""Several tasks, one at a time: each as a bench of its own, and their scores brought together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from luthier.stages.layout.begin import Bench
from luthier.tasks.several.scores import MEAN, mean_of_primary
from luthier.tasks.several.work import SeveralWork

ALONE = ""


def each_task(bench: Bench) -> dict[str, Bench]:
    """Return a bench for each of several tasks by name, or the bench itself under the empty name where there is one.

    The parts are shared: what is measured, started or saved with one of them is the model of the run.
    """
    if not isinstance(bench.work, SeveralWork):
        return {ALONE: bench}
    return {name: _of_task(bench, bench.work, name) for name in bench.work.members}


def _of_task(bench: Bench, work: SeveralWork, name: str) -> Bench:
    parts = work.parts_of(bench.parts, name)
    new_ids = {id(parameter) for inside, parameter in bench.parts["model"].module.named_parameters() if inside in bench.new}
    new = frozenset(inside for inside, parameter in parts["model"].module.named_parameters() if id(parameter) in new_ids)
    recipe, prepared = bench.recipe.of_task(name), bench.prepared.members[name]
    return replace(bench, recipe=recipe, prepared=prepared, work=work.members[name], parts=parts, new=new)


def brought_together(scores: Mapping[str, Mapping[str, float]], bench: Bench) -> dict[str, float]:
    """Return the scores of several tasks as one, each under the name of its task, with the mean of the primary ones as `score`.

    Args:
        scores: Scores by task; where there is one task they are returned as they are.
        bench: The bench of the run.
    """
    if ALONE in scores:
        return dict(scores[ALONE])
    found = {f"{task}/{name}": value for task, of_task in scores.items() for name, value in of_task.items()}
    return {MEAN: mean_of_primary(scores, {entry.name: entry.task for entry in bench.recipe.tasks or ()}), **found}
