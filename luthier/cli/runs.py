"""`luthier runs`: run folders with their scores."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from luthier.cli.arguments import new_parser
from luthier.cli.output import Output
from luthier.core import files
from luthier.core.errors import SetupError
from luthier.core.run_folder import RunFolder


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = new_parser("runs", "List runs with their scores, newest last.")
    made.add_argument("folder", nargs="?", default="runs", help="where to look (runs)")
    return made


def run(parsed: argparse.Namespace, output: Output, started: float) -> dict[str, Any]:
    """List the runs."""
    from rich.table import Table

    from luthier.cli.summary import interval, value

    folder = Path(parsed.folder)
    if not folder.is_dir():
        raise SetupError(f"no folder '{folder}' with runs", fix="make one with: luthier train, or name another folder: luthier runs FOLDER")
    found = [describe(run) for run in find_runs(folder)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    writes = any("perplexity" in scores for facts in found for scores in facts["scores"].values())
    others = any(facts["other_metric"] or facts["of_tasks"] for facts in found)
    for column in ("run", "state", "split", "accuracy", "f1", *(("perplexity",) if writes else ()), *(("other",) if others else ())):
        table.add_column(column, overflow="fold")
    for facts in found:
        splits = facts["scores"] or {"": {}}
        for split, scores in splits.items():
            cells = [interval(scores.get("accuracy")), value(scores.get("f1_macro"))]
            cells += [interval(scores.get("perplexity"))] if writes else []
            metric = facts["of_tasks"].get(split) or facts["other_metric"]
            cells += [f"{metric} {interval(scores.get(metric))}" if metric else ""] if others else []
            table.add_row(facts["run"], facts["state"], split, *cells)
    output.show(table) if found else output.say(f"no runs in '{folder}'")
    return {"runs": found}


def find_runs(folder: Path) -> list[RunFolder]:
    """Return the run folders in a folder, or the folder itself if it is one, oldest first."""
    recipes = [folder / "recipe.yaml", *folder.glob("*/recipe.yaml")]
    return [RunFolder(path.parent) for path in sorted(filter(Path.is_file, recipes), key=lambda path: path.stat().st_mtime)]


def describe(run: RunFolder) -> dict[str, Any]:
    """Return what the list says of one run."""
    metrics = files.read_json(run.metrics) if run.finished else {}
    state = "finished" if run.finished else "unfinished"
    return {
        "run": str(run.path),
        "state": state,
        "task": metrics.get("task"),
        "other_metric": metrics.get("primary_metric") if metrics.get("answers_with") == "rows" else None,
        "of_tasks": _other_metrics(metrics),
        "scores": _scores_of(metrics),
        "seconds": metrics.get("seconds"),
    }


def _other_metrics(metrics: dict[str, Any]) -> dict[str, str]:
    """Return by task and split what each of several tasks is judged by, where it is neither accuracy nor a loss."""
    judged = {task: found.get("primary_metric") for task, found in metrics.get("tasks", {}).items()}
    shown = ("accuracy", "loss", None)
    return {f"{task} {split}": judged[task] for task in judged if judged[task] not in shown for split in metrics["tasks"][task]["scores"]}


def _scores_of(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the scores by split, of several tasks by task and split."""
    alone: dict[str, Any] = metrics.get("scores", {})
    several = metrics.get("tasks", {})
    return {f"{task} {split}": scores for task, found in several.items() for split, scores in found["scores"].items()} or alone
