"""`luthier schedule`: the learning rate over the steps of a run, and which layers are trained, before it is begun."""

from __future__ import annotations

import argparse
from typing import Any

from luthier.cli.arguments import add_code_flag, add_short_flags, load_code, new_parser, recipe_named
from luthier.cli.arguments import spelled_out as spelled_out
from luthier.cli.output import Output

MOST_TURNS, MOST_LETTERS = 12, 48
EPILOG = """\
examples:
  luthier schedule reviews.yaml
  luthier schedule sst2 schedule.type=one-cycle --picture one-cycle.svg
  luthier schedule sst2 unfreeze=gradual unfreeze.every=10%
  luthier schedule --steps 1000 schedule.type=warmup-stable-decay --json
Nothing is trained and no weights are loaded. The rows say how many steps
there are; with --steps no rows are looked at."""


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = new_parser("schedule", "Draw the learning rate over the steps of a run, before it is begun.", epilog=EPILOG)
    made.add_argument("recipe", nargs="*", metavar="RECIPE | key=value", help="a YAML recipe or preset, and changes to it")
    made.add_argument("--steps", metavar="N", type=int, help="optimiser steps of the run, instead of counting them from the rows")
    made.add_argument("--picture", metavar="FILE", default="schedule.svg", help="the SVG file to write (schedule.svg)")
    add_short_flags(made)
    add_code_flag(made)
    return made


def run(parsed: argparse.Namespace, output: Output, started: float) -> dict[str, Any]:
    """Draw the schedule, show its numbers, and return them."""
    load_code(parsed.code)
    recipe, changes = recipe_named(parsed)
    from luthier.flow import draw_schedule

    found = draw_schedule(recipe, changes=changes, steps=parsed.steps, picture=parsed.picture)
    _show(found, output)
    return found


def _show(found: dict[str, Any], output: Output) -> None:
    from luthier.explain.wording import count, rate

    epochs = found["steps"] / found["steps_per_epoch"]
    output.say(f"schedule:  {found['schedule']['type']}")
    output.say(f"steps:     {found['steps']:,} ({epochs:.3g} epochs of {found['steps_per_epoch']:,})")
    output.say(f"warm-up:   {count(found['warmup_steps'], 'step')}")
    output.say(f"peak:      at step {found['peak_step']:,}")
    if found["watches_scores"]:
        output.say("these are the highest rates: it falls when validation scores stand still")
    output.say()
    output.say(" " * 20 + "".join(f"{name:>10}" for name in ("start", "peak", "end", "mean")))
    for name, values in found["rates"].items():
        output.say(f"{name:<20}" + "".join(f"{rate(values[place]):>10}" for place in ("start", "peak", "end", "mean")))
    if found["layers"]:
        output.say()
        for line in layer_lines(found["layers"]):
            output.say(line)
    output.say()
    output.say(f"written: {found['picture']}")


def layer_lines(layers: dict[str, Any]) -> list[str]:
    """Return a table of which layers are trained at which steps, at most 80 columns wide."""
    turns = layers["turns"]
    shown = turns if len(turns) <= MOST_TURNS else turns[: MOST_TURNS - 1]
    lines = ["trained beside the head, of what is not frozen by name" if layers["in_part"] else "trained beside the head"]
    lines.append(f"{'steps':<20}{'embeddings':<12}blocks of {layers['blocks']}")
    for turn in shown:
        steps = f"{turn['first']:,} to {turn['last']:,}"
        lines.append(f"{steps:<20}{'yes' if 0 in turn['trained'] else 'no':<12}{_ranges([n for n in turn['trained'] if n > 0])}")
    return lines if shown is turns else [*lines, f"and {len(turns) - len(shown):,} turns more, to step {turns[-1]['last']:,}"]


def _ranges(numbers: list[int]) -> str:
    """Write whole numbers, ascending, with those that follow each other as one range; no longer than a line has room."""
    starts = [number for number in numbers if number - 1 not in numbers]
    ends = [number for number in numbers if number + 1 not in numbers]
    written = ", ".join(f"{start}" if start == end else f"{start} to {end}" for start, end in zip(starts, ends, strict=True)) or "none"
    return written if len(written) <= MOST_LETTERS else f"{len(numbers)}: {written[: MOST_LETTERS - 8].rpartition(',')[0]}, ..."
