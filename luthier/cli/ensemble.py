"""`luthier ensemble`: several runs answer together, beside each of them."""

from __future__ import annotations

import argparse
from typing import Any

from luthier.cli.arguments import add_code_flag, load_code, new_parser
from luthier.cli.output import Output


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = new_parser("ensemble", "Score several runs of one problem together, beside each of them, on rows that none has trained on.")
    made.add_argument("runs", nargs="+", metavar="RUN", help="run folders, two or more; a cross-validation's folder stands for its folds")
    made.add_argument("--how", metavar="WAY", default="mean", help="mean of what the runs say (the default), or, of classes, vote or stack")
    made.add_argument("--data", metavar="FILE", dest="rows", help="labelled rows; none: the rows that all runs held out")
    made.add_argument("--output", metavar="FOLDER", help="write the ensemble there, for luthier predict")
    add_code_flag(made)
    return made


def run(parsed: argparse.Namespace, output: Output, started: float) -> dict[str, Any]:
    """Score the runs and return the scores."""
    load_code(parsed.code)
    from luthier.cli.together import show_singles
    from luthier.workflows.ensemble import ensemble

    found = ensemble(parsed.runs, how=parsed.how, data=parsed.rows, output=parsed.output)
    agree = "" if found["all_agree"] is None else f"; all {len(found['runs'])} runs agree on {found['all_agree']:.1%} of them"
    output.say(f"{found['split']}: {found['rows']:,} rows{agree}")
    if found["split"] == "validation":
        output.say("the runs held no test rows out: validation rows chose the best step of each, so they flatter", style="yellow")
    singles = [(one["run"], one["scores"], one["comparison"]) for one in found["singles"]]
    show_singles("ensemble", found["scores"], singles, output)
    if found["weights"]:
        output.say("weights: " + "  ".join(f"{run} {weight:.2f}" for run, weight in found["weights"].items()))
    if found["output"]:
        output.say(f'predict:  luthier predict {found["output"]} "your text"')
    return found
