"""`luthier evaluate`: scores of a run on its held-out rows, or on other labelled rows."""

from __future__ import annotations

import argparse
from typing import Any

from luthier.cli.arguments import add_code_flag, flag_changes, folder_named, load_code, new_parser, split_changes
from luthier.cli.arguments import spelled_out as spelled_out
from luthier.cli.output import Output
from luthier.core.errors import ConfigError, Fault


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = new_parser("evaluate", "Score a run on its held-out rows, or on other labelled rows.")
    made.add_argument("run", metavar="RUN", help="a run folder")
    made.add_argument("changes", nargs="*", metavar="key=value", help="changes to the run's recipe, such as evaluate.resamples=2000")
    made.add_argument("--as", metavar="NAME", dest="as_task", help="score one task of the run, where it has several")
    made.add_argument("--data", metavar="FILE", dest="rows", help="labelled rows; none scores the run's own held-out rows")
    made.add_argument("--text", metavar="COLUMN", help="column with the text")
    made.add_argument("--label", metavar="COLUMN", help="column with the label")
    add_code_flag(made)
    return made


def run(parsed: argparse.Namespace, output: Output, started: float) -> dict[str, Any]:
    """Score the run and return the scores."""
    load_code(parsed.code)
    plain, changes = split_changes(parsed.changes)
    if plain:
        raise ConfigError([Fault("changes", f"got '{plain[0]}', wanted key=value", f"other rows are named with --data {plain[0]}")])
    from luthier.cli.summary import score_table
    from luthier.flow import evaluate

    result = evaluate(folder_named(parsed), data=parsed.rows, changes=[*changes, *flag_changes(parsed)], started=started)
    for name, found in result.get("tasks", {"": result}).items():
        for split, count in found["rows"].items():
            output.say(f"{name} {split}: {count:,} rows".lstrip())
        output.show(score_table(found["scores"], of=name))
    return result
