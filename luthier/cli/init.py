"""`luthier init`: look at a data file and write a commented recipe."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from luthier.cli.arguments import flag_changes, new_parser, split_changes
from luthier.cli.arguments import spelled_out as spelled_out
from luthier.cli.output import Output
from luthier.core.errors import ConfigError, Fault


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = new_parser("init", "Look at a data file and write a commented recipe for it.")
    made.add_argument("data", metavar="DATA", help="a file, a folder or a hub id with labelled texts")
    made.add_argument("changes", nargs="*", metavar="key=value", help="settings of the data section, such as data.header=false")
    made.add_argument("--text", metavar="COLUMN", help="column with the text")
    made.add_argument("--label", metavar="COLUMN", help="column with the label")
    made.add_argument("--model", metavar="MODEL", help="model to tune")
    made.add_argument("--output", dest="recipe", metavar="FILE", help="recipe to write (the name of the data, .yaml)")
    return made


def run(parsed: argparse.Namespace, output: Output, started: float) -> dict[str, Any]:
    """Look at the data, write the recipe, and return what was found."""
    from luthier.data.rows import load_rows
    from luthier.recipe import resolve
    from luthier.stages.asking.look import default_recipe_path, recipe_for

    path = Path(parsed.recipe or default_recipe_path(parsed.data))
    if path.exists():
        raise ConfigError([Fault("--output", f"'{path}' exists already", "name another file with --output")])
    _, changes = split_changes(parsed.changes)
    changes += flag_changes(argparse.Namespace(text=parsed.text, label=parsed.label, model=parsed.model))
    written = parsed.data
    recipe = resolve({"data": {"train": written}}, changes)
    rows = load_rows(recipe.data, multi_label=recipe.data.label_separator is not None)
    for note in rows.notes:
        output.say(note)
    columns: dict[str, Any] = dict(rows.facts["sources"]["train"].get("columns", {}))
    columns |= {key.removeprefix("data."): value for key, value in changes if key.startswith("data.")}
    path.write_text(recipe_for(written, rows, columns=columns, path=str(path), model=recipe.model.path), encoding="utf-8")
    output.say()
    output.say(f"wrote {path}; look at it, then:")
    output.say(f"  luthier check {path}")
    output.say(f"  luthier train {path}")
    return {"recipe": str(path), "columns": columns, "facts": rows.facts, "notes": rows.notes}
