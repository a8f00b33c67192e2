"""`luthier check`: validate a recipe and its data without training, and show two rows as the model will see them."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import time
from typing import Any

from luthier.cli.arguments import add_code_flag, add_short_flags, flag_changes, in_order, load_code, new_parser, split_changes
from luthier.cli.arguments import spelled_out as spelled_out
from luthier.cli.output import Output

log = logging.getLogger("luthier")


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = new_parser("check", "Validate a recipe and its data without training.")
    made.add_argument("recipe", nargs="*", metavar="RECIPE | key=value", help="a YAML recipe or preset, and changes to it")
    add_short_flags(made)
    add_code_flag(made)
    return made


def run(parsed: argparse.Namespace, output: Output, started: float) -> dict[str, Any]:
    """Validate, show two encoded rows, and return what was found."""
    load_code(parsed.code)
    plain, changes = split_changes(parsed.recipe)
    from luthier.flow import prepare
    from luthier.recipe import resolve
    from luthier.stages.asking.look import encoded_examples

    recipe = resolve(plain[0] if plain else None, in_order(changes, flag_changes(parsed)))
    prepared = prepare(recipe)
    for note in prepared.facts.get("notes", []):
        log.log(logging.WARNING if note.startswith("warning: ") else logging.INFO, note.removeprefix("warning: "))
    examples = encoded_examples(prepared)
    for example in examples:
        _show(example, output)
    rows = {name: len(split) for name, split in prepared.splits.items()}
    output.say()
    classes = f"{len(prepared.labels)} classes; " if prepared.labels else ""
    output.say(f"{classes}texts up to {prepared.facts['tokens']['longest']} tokens, cut at {prepared.max_length}")
    given = shlex.join(word for word in sys.argv[2:] if word != "--json")
    output.say(f"all in order ({time.time() - started:.1f} s); train it with: luthier train {given}", style="green")
    return {"ok": True, "rows": rows, "labels": list(prepared.labels), "facts": prepared.facts, "examples": examples}


def _show(example: dict[str, Any], output: Output) -> None:
    output.say()
    output.say(f"text:   {example['text']}")
    output.say(f"tokens: {' '.join(example['tokens'])}")
    output.say(f"mask:   {' '.join(map(str, example['mask']))}")
    output.say(f"label:  {example['label']}" + (f"   ({example['windows']} windows)" if example["windows"] > 1 else ""))
