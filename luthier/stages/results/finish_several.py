"""What a training of several tasks leaves: a model folder and pages for each task, and a page that brings them together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.core import files, yaml
from luthier.core.run_folder import RunFolder
from luthier.explain.several import write_pages
from luthier.stages.layout.begin import Bench
from luthier.stages.results.finish import task_facts, timed, training_facts, write_up
from luthier.stages.running.several import each_task
from luthier.tasks.several.scores import MEAN, mean_of_primary


def settled(bench: Bench, run: RunFolder, resumed_from: int | None) -> dict[str, Any]:
    """Return what is known of the training; to be done once.

    An adapter is merged into the trunk, so that plain transformers loads the model of each task.

    Args:
        bench: The training, at its end, with the weights that are kept.
        run: The run folder.
        resumed_from: Step the training was resumed from, or None.
    """
    facts = training_facts(bench, run, resumed_from)
    if bench.recipe.adapter is not None:
        facts["parameters"] = _sizes(bench.parts["model"].module)
        bench.recipe.adapter.merge(bench.parts["model"].module)
    return facts


def finish_several(bench: Bench, run: RunFolder, facts: dict[str, Any], *, started: float) -> dict[str, Any]:
    """Save and measure each task, and write every file of the run.

    Args:
        bench: The training, with the weights that are kept.
        run: The run folder.
        facts: What is known of the training.
        started: When the command began, in seconds since the epoch.

    Returns:
        The object of `metrics.json`.
    """
    files.make_folder(run.model, lambda folder: bench.work.save(bench.parts, folder))
    measured = {}
    for name, one in each_task(bench).items():
        folder = _folder_of(run, name, one)
        about = {**facts, "run": str(folder.path), **task_facts(one.recipe.task)}
        measured[name] = write_up(one, folder, about, started=started)
    each = {name: {"task": one["task"], "primary_metric": one["primary_metric"], "scores": one["scores"]} for name, one in measured.items()}
    metrics = timed(facts | {"scores": _means(measured, bench), "tasks": each}, started)
    files.write_json(run.metrics, metrics)
    write_pages(run)
    return metrics


def _sizes(module: Any) -> dict[str, int]:
    """Return how many numbers the adapter in the trunk, the heads beside it, and what is frozen have."""
    adapter = sum(p.numel() for p in module.trunk.parameters() if p.requires_grad)
    trained, every = (sum(p.numel() for p in module.parameters() if p.requires_grad or whole) for whole in (False, True))
    return {"adapter": adapter, "head": trained - adapter, "base": every - trained}


def _folder_of(run: RunFolder, name: str, one: Bench) -> RunFolder:
    """Return a folder for one task, which any verb takes for a run with that task alone."""
    folder = RunFolder(run.tasks / name)
    folder.path.mkdir(parents=True, exist_ok=True)
    files.write_text(folder.recipe, yaml.dump(one.recipe.as_dict()))
    files.write_text(folder.environment, run.environment.read_text(encoding="utf-8"))
    files.write_json(folder.data, one.prepared.facts)
    files.write_text(folder.quarantine, one.prepared.quarantine.read_text(encoding="utf-8"))
    if not folder.model.is_symlink():
        folder.model.symlink_to(Path("..", "..", run.model.name, name), target_is_directory=True)
    return folder


def _means(measured: dict[str, dict[str, Any]], bench: Bench) -> dict[str, Any]:
    """Return the mean of the tasks' primary scores for each split that all of them have; it has no interval."""
    tasks = {entry.name: entry.task for entry in bench.recipe.tasks or ()}
    splits = [split for split in ("validation", "test") if all(split in metrics["scores"] for metrics in measured.values())]
    found: dict[str, Any] = {}
    for split in splits:
        values = {name: {key: one["value"] for key, one in metrics["scores"][split].items()} for name, metrics in measured.items()}
        if all(tasks[name].headline() in of_task for name, of_task in values.items()):
            found[split] = {MEAN: {"value": mean_of_primary(values, tasks), "low": None, "high": None}}
    return found
