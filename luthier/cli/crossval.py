"""`luthier crossval`: the same recipe on all but one part of its rows, for each part."""

from __future__ import annotations

import argparse
from typing import Any

from luthier.cli.arguments import add_code_flag, add_short_flags, load_code, new_parser, recipe_named
from luthier.cli.arguments import spelled_out as spelled_out
from luthier.cli.output import Output
from luthier.core.errors import ConfigError, Fault

SHOWN = ("accuracy", "f1_macro", "mcc", "auroc", "ece")
EPILOG = """\
examples:
  luthier crossval reviews.yaml --folds 5
  luthier crossval --data reviews.csv --text review --label stars --folds 10
Stopped or killed, it goes on with the same command."""


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    what = "Train a recipe on all but one part of its rows, for each part, and say how its scores vary."
    made = new_parser("crossval", what, epilog=EPILOG)
    made.add_argument("recipe", nargs="*", metavar="RECIPE | key=value", help="a YAML recipe or preset, and changes to it")
    made.add_argument("--folds", metavar="K", type=int, help="number of parts (evaluate.folds, else 5)")
    add_short_flags(made)
    add_code_flag(made)
    return made


def run(parsed: argparse.Namespace, output: Output, started: float) -> dict[str, Any]:
    """Train every fold, show the progress, and return the scores."""
    load_code(parsed.code)
    recipe, changes = recipe_named(parsed)
    if not recipe and not changes:
        raise ConfigError([Fault("recipe", "nothing to train on", "luthier crossval RECIPE, or --data FILE")])
    return run_folds(recipe, changes, parsed.folds, output)


def run_folds(recipe: str | None, changes: list[tuple[str, Any]], num_folds: int | None, output: Output) -> dict[str, Any]:
    """Train every fold of a recipe, show the progress, and return the scores."""
    from luthier.cli.progress import follow
    from luthier.workflows.crossval import CrossValidation

    validation = CrossValidation.begin(recipe, changes=changes, num_folds=num_folds)
    for fold in validation:
        output.say(f"fold {fold.number} of {validation.num_folds}: {fold.training.run.path}")
        follow(fold, output)
    found = validation.findings()
    _show(found, output)
    return found


def _show(found: dict[str, Any], output: Output) -> None:
    from rich.table import Table

    from luthier.cli.summary import interval

    output.say()
    keys = [key for key in SHOWN if key in found["scores"]] or list(found["scores"])[:5]
    title = f"scores over {found['num_folds']} folds, with {found['confidence']:.0%} intervals of the mean"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    whole = (found["out_of_fold"] or {"scores": {}})["scores"]
    for column in ("", "mean", "deviation", *(["all rows"] if whole else []), *(f"fold {run['fold']}" for run in found["runs"])):
        table.add_column(column, overflow="fold")
    for key in keys:
        score = found["scores"][key]
        together = [interval(whole[key]) if key in whole else "-"] if whole else []
        table.add_row(
            key, interval(score), _number(score["deviation"]), *together, *(_number(run["scores"].get(key)) for run in found["runs"])
        )
    output.show(table)
    output.say(f"all of it: {found['crossval']}/crossval.json")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
