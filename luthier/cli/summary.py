"""What a person reads at the end: scores with intervals, the baseline beside them, and the next commands."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from luthier.cli.output import Output
from luthier.core import files
from luthier.core.run_folder import RunFolder

VERDICTS = {
    "better": "the tuned model is better",
    "worse": "the tuned model is worse",
    "no difference shown": "no difference from the tuned model is shown",
}
HEADLINE = ("macro_f1", "micro_f1", "accuracy", "qwk", "f1_macro", "mcc", "auroc", "ece", "loss", "perplexity", "token_accuracy")
OF_TEXTS = ("rouge1", "rouge2", "rougeL", "bleu", "chrf", "exact_match", "length", "repetition")


def show_summary(run: RunFolder, metrics: dict[str, Any], output: Output) -> None:
    """Show scores, baseline, files and next commands of a finished run."""
    scores = metrics.get("scores") or {}
    if "tasks" in metrics:
        _show_tasks(metrics, output)
    elif scores:
        output.show(score_table(scores))
        _show_comparison(run, output)
    else:
        output.say("nothing was held out, so nothing is measured: add data.test=FILE or data.split.test=0.2", style="yellow")
    if metrics.get("forgetting"):
        from luthier.explain.forgotten import forgetting_sentence

        output.say(forgetting_sentence(metrics["forgetting"]))
    memory = f"peak memory {metrics['peak_memory_bytes'] / 2**20:,.0f} MiB"
    rate, seconds = metrics["samples_per_second"], metrics["training_seconds"]
    output.say(f"trained {metrics['steps']:,} steps in {seconds:.0f} s ({rate:.0f} rows/s), {memory}")
    output.say()
    output.say(f"report:   {run.report}")
    output.say(f"model:    {run.model}")
    named = f"{run.path} --as {next(iter(metrics['tasks']))}" if "tasks" in metrics else run.path
    asked = "prompt" if "perplexity" in next(iter(scores.values()), {}) else "text"
    asked = "text with a [MASK]" if metrics.get("task") == "fill-mask" else asked
    output.say(f'predict:  luthier predict {named} "your {asked}"')
    output.say(f"evaluate: luthier evaluate {named} --data more.csv")


def _show_tasks(metrics: dict[str, Any], output: Output) -> None:
    """Show the scores of each of several tasks, and the mean of their primary scores."""
    for name, of_task in metrics["tasks"].items():
        if of_task["scores"]:
            output.show(score_table(of_task["scores"], of=name))
        else:
            output.say(f"{name}: nothing was held out, so nothing is measured", style="yellow")
    for split, found in metrics["scores"].items():
        output.say(f"mean of the tasks on {split}: {value(found['score'])}")


def score_table(scores: dict[str, Any], *, of: str = "") -> Table:
    """Return the headline scores of each split with their intervals.

    Args:
        scores: Scores by split and name.
        of: Name of the task, where there are several.
    """
    table = Table(title=f"{of} scores, with 95 % intervals".lstrip(), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for split in scores:
        table.add_column(split)
    for name in _headline(scores):
        if any(split.get(name) for split in scores.values()):
            table.add_row(name, *(interval(split.get(name)) for split in scores.values()))
    return table


def _headline(scores: dict[str, Any]) -> list[str]:
    """Return the names of the scores to show: the usual ones, or all of a task that has none of them, or finds spans."""
    every = list(dict.fromkeys(name for split in scores.values() for name in split))
    usual = [name for name in (*HEADLINE, *OF_TEXTS) if name in every]
    return usual if set(usual) - {"loss"} and "f1" not in every else every


def value(score: dict[str, float | None] | None) -> str:
    """Return a score as `0.912`."""
    return "-" if not score or score["value"] is None else f"{score['value']:.3f}"


def interval(score: dict[str, float | None] | None) -> str:
    """Return a score as `0.912 (0.899 to 0.925)`."""
    if not score or score["low"] is None or score["high"] is None:
        return value(score)
    return f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"


def _show_comparison(run: RunFolder, output: Output) -> None:
    evaluation = files.read_json(run.evaluation) if run.evaluation.is_file() else {}
    for split, facts in evaluation.items():
        base, comparison = facts.get("baseline"), facts.get("comparison")
        if base and comparison:
            metric = comparison.get("metric", "accuracy")
            what = "" if metric == "accuracy" else f"a {metric} of "
            score = interval(base["scores"][metric])
            output.say(f"{split}: {base['name']} gives {what}{score}; {VERDICTS[comparison['verdict']]}")
