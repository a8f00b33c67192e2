"""What a person sees of `luthier sweep` on a file with variants: each run as it begins and ends, and the table."""

from __future__ import annotations

import argparse
from typing import Any

from luthier.cli.arguments import CHANGE
from luthier.cli.output import Output
from luthier.core.errors import ConfigError, Fault


def chosen_words(parsed: argparse.Namespace) -> list[str]:
    """Return the words `key=value` that stand after --variants, --recipes or --seeds, and take them out there."""
    found = []
    for name in ("variants", "recipes", "seeds"):
        given = getattr(parsed, name)
        if given is not None:
            found += [word for word in given if CHANGE.match(word)]
            setattr(parsed, name, [word for word in given if not CHANGE.match(word)])
    return found


def run_comparison(parsed: argparse.Namespace, changes: list[tuple[str, Any]], output: Output) -> dict[str, Any]:
    """Train what is left of a comparison, say how it goes, and show the table."""
    from luthier.workflows.comparison.comparison import Comparison

    if parsed.cluster is not None:
        raise ConfigError([Fault("--cluster", "is for a search, and the file has variants", "--workers 2 trains two at a time here")])
    if parsed.trials is not None:
        raise ConfigError([Fault("--trials", "is for a search, and the file has variants", "--variants, --recipes or --seeds narrow it")])
    chosen = {"recipes": parsed.recipes, "variants": parsed.variants, "seeds": _seeds(parsed.seeds), "workers": parsed.workers}
    begun = Comparison.begin(parsed.sweep, changes, code=parsed.code, **chosen, hours=parsed.hours, output=parsed.output)
    left, total = len(begun.left), len(begun.plan.runs)
    output.say(f"{total} runs in {begun.plan.folder}" + (f", {total - left} of them finished already" if left < total else ""))
    number = total - left
    for news in begun:
        if news.state == "begins":
            number += 1
            output.say(f"run {number} of {total}: {news.run.name}")
        else:
            spent = begun.book[news.run.name]["seconds"]
            output.say(f"{news.run.name}: {news.state} after {spent:.0f} s" + (f": {news.error}" if news.error else ""))
    found = begun.findings()
    show_comparison(found, output)
    return found


def show_comparison(found: dict[str, Any], output: Output) -> None:
    """Show the table of a comparison and where it is."""
    from rich.table import Table

    from luthier.explain.comparison import HEADS, cells_of, errors_of, note_of

    output.say()
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for head in HEADS:
        table.add_column(head, overflow="fold", no_wrap=head == "variant")
    for row in found["rows"]:
        table.add_row(*cells_of(row))
    output.show(table)
    output.say(note_of(found))
    for name, error in errors_of(found):
        output.say(f"{name} failed: {error}", style="yellow")
    counts = ", ".join(f"{count} {state}" for state, count in found["counts"].items() if count)
    output.say(f"runs: {counts}; {found['seconds'] / 60:.1f} minutes; the table: {found['sweep']}/comparison.md, .html, .svg, .json")
    if found["counts"]["failed"] or found["counts"]["stopped"] or found["counts"]["waiting"]:
        output.say("the same command runs what is not finished")


def _seeds(given: list[str] | None) -> list[int] | None:
    if given is None:
        return None
    wrong = [word for word in given if not word.isdigit()]
    if wrong:
        raise ConfigError([Fault("--seeds", f"got '{wrong[0]}', wanted whole numbers", "--seeds 0 1 2")])
    return [int(word) for word in given]
