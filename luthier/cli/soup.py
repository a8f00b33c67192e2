"""`luthier soup`: the mean of the weights of several runs, as one model."""

from __future__ import annotations

import argparse
from typing import Any

from luthier.cli.arguments import add_code_flag, load_code, new_parser
from luthier.cli.output import Output
from luthier.core.errors import ConfigError, Fault


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = new_parser("soup", "Average the weights of runs that started from the same base; the result is one model of the same size.")
    made.add_argument("runs", nargs="+", metavar="RUN", help="run folders, two or more")
    made.add_argument(
        "--how",
        metavar="WAY",
        default="greedy",
        help="greedy: the best run first, others where the validation score does not fall; uniform",
    )
    made.add_argument("--output", metavar="FOLDER", help="model folder to make")
    add_code_flag(made)
    return made


def run(parsed: argparse.Namespace, output: Output, started: float) -> dict[str, Any]:
    """Average, measure and return the scores."""
    load_code(parsed.code)
    if parsed.output is None:
        raise ConfigError([Fault("--output", "is required", "name the model folder: --output models/NAME")])
    from luthier.cli.together import show_singles
    from luthier.workflows.soup import soup

    found = soup(parsed.runs, parsed.output, how=parsed.how)
    output.say(f"{len(found['chosen'])} of {len(found['singles'])} runs are in the soup: {', '.join(found['chosen'])}")
    for split, scores in found["scores"].items():
        chose = " (they chose the runs, so they flatter the soup)" if split == "validation" and found["how"] == "greedy" else ""
        output.say(f"{split}{chose}:")
        show_singles("soup", scores, [(one["run"], one["scores"][split], one["comparison"][split]) for one in found["singles"]], output)
    output.say(f'predict:  luthier predict {found["model"]} "your text"')
    return found
