"""The table of a comparison: for each recipe and variant its score over the seeds, what was trained, time and memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from luthier.core import files
from luthier.core.run_folder import RunFolder
from luthier.explain.comparison import comparison_file, markdown_table
from luthier.explain.comparison_page import comparison_page
from luthier.metrics import metrics
from luthier.metrics.intervals import score_keys
from luthier.tasks.several.scores import scores_by_split
from luthier.workflows.comparison.section import ComparisonPlan, PlannedRun
from luthier.workflows.together import MEASURING

JSON, MARKDOWN, PICTURE, PAGE = "comparison.json", "comparison.md", "comparison.svg", "comparison.html"
STATES = ("finished", "failed", "stopped", "waiting")


def findings_of(plan: ComparisonPlan, book: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the table as plain data.

    Args:
        plan: The comparison.
        book: What became of each run so far, by its name.
    """
    runs = {run.name: run_facts(run, plan.metrics[run.recipe], book.get(run.name, {})) for run in plan.runs}
    rows = []
    for recipe, variant in dict.fromkeys((run.recipe, run.variant) for run in plan.runs):
        own = [runs[run.name] for run in plan.runs if (run.recipe, run.variant) == (recipe, variant)]
        rows.append(row_of(recipe, variant, own, metric=plan.metrics[recipe], confidence=plan.confidence[recipe]))
    counts = Counter(run["state"] for run in runs.values())
    return {
        "sweep": str(plan.folder),
        "recipes": list(plan.metrics),
        "variants": list(dict.fromkeys(run.variant for run in plan.runs)),
        "seeds": list(plan.file.seeds),
        "workers": plan.file.workers,
        "counts": {state: counts[state] for state in STATES},
        "rows": rows,
        "seconds": round(sum(book.get(name, {}).get("seconds", 0.0) for name in runs), 1),
    }


def run_facts(run: PlannedRun, metric: str, noted: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of one run.

    Args:
        run: The run.
        metric: The score that is compared.
        noted: What was written down when it ended: `state`, `seconds`, `error`.
    """
    folder = RunFolder(run.folder)
    facts: dict[str, Any] = {"seed": run.seed, "run": str(run.folder), "state": noted.get("state", "waiting")}
    facts |= {"error": noted.get("error"), "split": None, "score": None}
    if not folder.finished:
        return {**facts, "state": facts["state"] if facts["state"] != "finished" else "waiting"}
    stored = files.read_json(folder.metrics)
    split = next((name for name in MEASURING if name in stored["scores"]), None)
    facts |= {"state": "finished", "error": None, "split": split}
    facts["score"] = scores_by_split(stored)[split].get(metric) if split is not None else None
    kept = ("trained_parameters", "all_parameters", "training_seconds", "peak_memory_bytes")
    return facts | {key: stored.get(key) for key in kept}


def row_of(recipe: str, variant: str, runs: Sequence[Mapping[str, Any]], *, metric: str, confidence: float) -> dict[str, Any]:
    """Return one row of the table: the mean of what the finished runs of a variant say.

    Args:
        recipe: Name of the recipe.
        variant: Name of the variant.
        runs: Facts of its runs, one for each seed.
        metric: The score that is compared.
        confidence: Share of cases in which the interval holds the truth.
    """
    ended = [run for run in runs if run["state"] == "finished"]
    scores = [run["score"] for run in ended if run["score"] is not None and run["score"]["value"] is not None]
    errors = [run["error"] for run in runs if run["error"]]
    state = "finished" if len(ended) == len(runs) else "failed" if errors else "part" if ended else runs[0]["state"]
    return {
        "recipe": recipe,
        "variant": variant,
        "state": state,
        "metric": metric,
        "split": ended[0]["split"] if ended else None,
        "score": over_seeds(scores, metric, confidence=confidence),
        "trained_share": _mean([run["trained_parameters"] / run["all_parameters"] for run in ended if run.get("all_parameters")]),
        "trained_parameters": _mean([run["trained_parameters"] for run in ended if run.get("trained_parameters") is not None]),
        "training_seconds": _mean([run["training_seconds"] for run in ended if run.get("training_seconds") is not None]),
        "peak_memory_bytes": _mean([run["peak_memory_bytes"] for run in ended if run.get("peak_memory_bytes") is not None]),
        "error": errors[0] if errors else None,
        "runs": list(runs),
    }


def over_seeds(scores: Sequence[Mapping[str, float | None]], key: str, *, confidence: float) -> dict[str, Any] | None:
    """Return the mean of a score over seeds, with an interval that allows for other rows and for other seeds.

    The distance of each end is the root of the sum of two squares: that of the runs' own intervals, which are about the same rows
    and so do not become narrower with more seeds; and that of the mean over seeds by Student's t. With one seed it is the run's own.

    Args:
        scores: `value`, `low` and `high` of each run.
        key: Name of the score, for its bounds.
        confidence: Share of cases in which the interval holds the truth, in (0, 1).
    """
    from scipy.stats import t

    values = [float(one["value"]) for one in scores if one["value"] is not None]
    if not values:
        return None
    mean, seeds = fmean(values), len(values)
    deviation = stdev(values) if seeds > 1 else None
    half = 0.0 if deviation is None else float(t.ppf((1 + confidence) / 2, seeds - 1)) * deviation / seeds**0.5
    rows = [(one["value"], one["low"], one["high"]) for one in scores if None not in (one["value"], one["low"], one["high"])]
    found: dict[str, Any] = {"value": mean, "low": None, "high": None, "deviation": deviation, "seeds": seeds}
    if rows:
        below, above = (fmean(abs(row[0] - row[end]) for row in rows) for end in (1, 2))  # type: ignore[operator]
        name = key.rpartition("/")[2]  # of one of several tasks
        least, greatest = metrics.get(score_keys()[name]).bounds if name in score_keys() else (0.0, float("inf"))
        found["low"] = max(least, mean - (below**2 + half**2) ** 0.5)
        found["high"] = min(greatest, mean + (above**2 + half**2) ** 0.5)
    return found


def write_table(folder: Path, found: Mapping[str, Any]) -> None:
    """Write the table as JSON, Markdown, a page and a picture.

    Args:
        folder: Folder of the sweep.
        found: The table, as `findings_of` gives it.
    """
    files.write_json(folder / JSON, found)
    files.write_text(folder / MARKDOWN, markdown_table(found))
    if any(row["score"] for row in found["rows"]):
        files.write_text(folder / PICTURE, comparison_file(found))
    files.write_text(folder / PAGE, comparison_page(found))


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
