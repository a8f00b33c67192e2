"""`luthier demo`: fine-tune the embedded model on the embedded data, offline, and show what changed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from luthier.cli.arguments import flag_changes, new_parser, split_changes
from luthier.cli.arguments import spelled_out as spelled_out
from luthier.cli.output import Output

LANGUAGES = {"en": "English", "zh": "Chinese"}


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = new_parser("demo", "Fine-tune all-MiniLM-L6-v2 on 1,248 customer-service texts in 12 intents, English and Chinese.")
    made.add_argument("changes", nargs="*", metavar="key=value", help="changes to the recipe support-intents")
    made.add_argument("--output", metavar="FOLDER", help="run folder to make")
    return made


def run(parsed: argparse.Namespace, output: Output, started: float) -> dict[str, Any]:
    """Run the demo and return the object of metrics.json."""
    from luthier.cli.progress import follow
    from luthier.flow import Training

    _, changes = split_changes(parsed.changes)
    output.say("fine-tuning all-MiniLM-L6-v2 on customer-service texts: 12 intents, English and Chinese")
    training = Training.begin("support-intents", changes=[*changes, *flag_changes(parsed)], started=started)
    follow(training, output)
    assert training.metrics is not None
    run = training.run
    output.say()
    output.show(before_and_after(run.evaluation, training.metrics["scores"]["test"]["accuracy"]))
    output.say(f"{training.metrics['seconds']:.0f} s of work; peak memory {training.metrics['peak_memory_bytes'] / 2**20:,.0f} MiB")
    output.say()
    output.say(f"what it confuses:  {run.confusion}")
    output.say(f"the whole report:  {run.report}")
    output.say(f'ask it:            luthier predict {run.path} "where is my parcel?" "我要退货"')
    output.say(f"measure it again:  luthier evaluate {run.path}")
    output.say("your own data:     luthier init FILE.csv")
    return training.metrics


def before_and_after(evaluation: Path, overall: dict[str, float | None]) -> Any:
    """Return the table of accuracy before and after tuning, overall and by language."""
    from rich.table import Table

    from luthier.cli.summary import interval
    from luthier.core import files

    facts = files.read_json(evaluation)["test"]
    before, after = facts["baseline"], facts["slices"]
    table = Table(
        title="accuracy on 336 texts that are worded differently", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for column in ("", "before", "after (95 % interval)"):
        table.add_column(column)
    for language, scores in after.items():
        table.add_row(LANGUAGES.get(language, language), interval(before["slices"][language]["accuracy"]), interval(scores["accuracy"]))
    table.add_row("all", interval(before["scores"]["accuracy"]), interval(overall))
    table.caption = f"before: {before['name']}; after tuning: {facts['comparison']['verdict']}"
    table.caption_justify = "left"
    return table
