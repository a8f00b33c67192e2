"""`luthier data`: what a training would read. `luthier data preview` shows rows as the model gets them."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.cli.arguments import add_code_flag, add_short_flags, load_code, new_parser, recipe_named
from luthier.cli.arguments import spelled_out as spelled_out
from luthier.cli.output import Output
from luthier.core.errors import ConfigError, Fault
from luthier.core.names import did_you_mean

if TYPE_CHECKING:
    from rich.text import Text

log = logging.getLogger("luthier")
PARTS = ("preview",)
SHOWN_NUMBERS = 8
LEARNT = "bold green"
EPILOG = """\
examples:
  luthier data preview reviews.yaml
  luthier data preview --task fill-mask --data notes.txt --rows 5
  luthier data preview alpaca.yaml --json
Tokens that something is learnt of are green, or stand between ‹ and › where
there is no colour. Nothing is trained and no weights are loaded."""


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = new_parser("data", "Show what a training would read: rows as the model gets them, and what is left out.", epilog=EPILOG)
    made.add_argument("part", metavar="PART", help="preview")
    made.add_argument("recipe", nargs="*", metavar="RECIPE | key=value", help="a YAML recipe or preset, and changes to it")
    made.add_argument("--rows", metavar="N", type=int, default=3, help="training rows to show, evenly spread (3)")
    add_short_flags(made)
    add_code_flag(made)
    return made


def run(parsed: argparse.Namespace, output: Output, started: float) -> dict[str, Any]:
    """Count, show some rows, and return all of it."""
    if parsed.part not in PARTS:
        raise ConfigError([Fault("data", f"there is no 'luthier data {parsed.part}'", did_you_mean(parsed.part, PARTS))])
    load_code(parsed.code)
    recipe, changes = recipe_named(parsed)
    from luthier.flow import preview

    found = preview(recipe, changes=changes, rows=parsed.rows)
    for name, task in found.get("tasks", {"": found}).items():
        if name:
            output.say(f"task {name}", style="bold")
        _show(task, output)
    return found


def _show(found: dict[str, Any], output: Output) -> None:
    from luthier.explain.wording import count

    for note in found["notes"]:
        log.log(logging.WARNING if note.startswith("warning: ") else logging.INFO, note.removeprefix("warning: "))
    output.say()
    for name, split in found["splits"].items():
        cut = f", {split['cut']:,} cut at {found['max_length']:,}" if split["cut"] else ""
        output.say(f"{name:<11}{split['rows']:>10,} rows {split['tokens']:>13,} tokens{cut}")
    _show_left_out(found, output)
    for row in found["rows"]:
        output.say()
        windows = f" in {count(row['windows'], 'window')}" if row["windows"] > 1 else ""
        learnt = f", {row['learnt']:,} of them learnt" if row["learnt"] else ""
        output.say(f"row {row['row'] or row['id']:,}: {count(row['tokens'], 'token')}{windows}{learnt}", style="bold")
        output.show(_indented(_coloured(row["pieces"], plain=output.console.color_system is None)))
        output.show(_indented(f"learnt: {row['target']}"))


def _show_left_out(found: dict[str, Any], output: Output) -> None:
    output.say(f"{'left out':<11}{sum(one['rows'] for one in found['left_out']):>10,} rows")
    for one in found["left_out"]:
        numbers = ", ".join(f"{number:,}" for number in one["first"][:SHOWN_NUMBERS]) + (", …" if one["rows"] > SHOWN_NUMBERS else "")
        output.show(_indented(f"{one['rows']:,}: {one['example']} ({Path(one['file']).name}, row {numbers})"))


def _coloured(pieces: list[dict[str, Any]], *, plain: bool) -> Text:
    """Return the pieces as one text, runs of what is learnt marked by colour, or by ‹ and › where there is none."""
    from rich.text import Text

    made, before = Text(), False
    for place, piece in enumerate(pieces):
        text = piece["text"] if place else piece["text"].lstrip(" ")
        if plain and piece["learnt"] != before:
            space = " " * (len(text) - len(text.lstrip(" ")))
            text = f"{space}‹{text[len(space) :]}" if piece["learnt"] else f"›{text}"
        made.append(text, style=LEARNT if piece["learnt"] and not plain else None)
        before = piece["learnt"]
    return made.append("›") if plain and before else made


def _indented(shown: Any) -> Any:
    from rich.padding import Padding
    from rich.text import Text

    return Padding(Text(shown) if isinstance(shown, str) else shown, (0, 0, 0, 2), expand=False)
