"""`luthier plan`: what a run will need before it is begun, here and on named machines."""

from __future__ import annotations

import argparse
from typing import Any

from luthier.cli.arguments import add_code_flag, add_short_flags, load_code, new_parser, recipe_named
from luthier.cli.arguments import spelled_out as spelled_out
from luthier.cli.output import Output

PARTS = ("weights", "copies", "gradients", "optimiser", "activations", "process")
EPILOG = """\
examples:
  luthier plan reviews.yaml
  luthier plan sst2 training.batch_size=256 --hardware t4-16g --price 0.35
  luthier plan --model bert-large-uncased --assume 50000x256 --hardware a100-80g
No weights are loaded. This machine's time and memory come from a trial of a
few seconds on layers with random weights; other machines' are calculated."""


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = new_parser("plan", "Say what a run will need before it is begun: memory, time, cost.", epilog=EPILOG)
    made.add_argument("recipe", nargs="*", metavar="RECIPE | key=value", help="a YAML recipe or preset, and changes to it")
    made.add_argument(
        "--hardware", metavar="NAME", action="append", default=[], help="another machine too, such as a100-80g; again for more"
    )
    made.add_argument("--price", metavar="N", type=float, help="price of an hour, such as 2.5")
    made.add_argument("--assume", metavar="ROWSxTOKENS", type=_assumed, help="plan for made-up rows, such as 10000x128")
    made.add_argument("--pretraining", action="store_true", help="say too what a training from zero would want (20 tokens a parameter)")
    made.add_argument("--measure", action="store_true", help="begin the run itself, weights and all, for 4 steps, and go by them")
    made.add_argument("--fresh", action="store_true", help="measure this machine again instead of going by an earlier trial")
    add_short_flags(made)
    add_code_flag(made)
    return made


def run(parsed: argparse.Namespace, output: Output, started: float) -> dict[str, Any]:
    """Make the plan, show it, and return it."""
    load_code(parsed.code)
    recipe, changes = recipe_named(parsed)
    from luthier.flow import plan

    found = plan(
        recipe,
        changes=changes,
        hardware=parsed.hardware,
        price=parsed.price,
        pretraining=parsed.pretraining,
        measure=parsed.measure,
        fresh=parsed.fresh,
        assume=parsed.assume,
    )
    _show(found, output)
    return found


def _show(found: dict[str, Any], output: Output) -> None:
    from luthier.explain.wording import count, duration

    counts, batch = found["parameters"], found["batch_size"]
    accumulate = found["gradient_accumulation_steps"]
    output.say(f"model:      {found['model']}")
    output.say(f"parameters: {counts['all']:,}, of them trained {counts['trainable']:,}")
    if "teacher" in found:
        passes = count(found["teacher"]["passes"], "pass")
        output.say(f"teacher:    {found['teacher']['parameters']:,} parameters, each row goes through it in {passes}")
    made_up = "" if found["assumed"] is None else " (assumed: --assume ROWSxTOKENS or --data FILE)"
    output.say(f"rows:       {found['rows']:,}, up to {found['longest']} tokens{made_up}")
    times = f" x {accumulate}" if accumulate > 1 else ""
    output.say(f"run:        {found['epochs']:g} epochs, {count(found['steps'], 'step')} of {batch}{times} rows, {found['precision']}")
    if "passes" in found:
        output.say(f"passes:     each row goes through the model {found['passes']:g} times in a step")
    if "old_rows" in found:
        output.say(f"old rows:   {found['old_rows']:g} beside each new one, taken to be as long")
    output.say(f"tokens:     {found['tokens']:,}, with padding {found['padded_tokens']:,}")
    output.say(f"products:   {found['flops']:.2e} FLOP")
    for machine in found["machines"]:
        _show_machine(machine, output)
    if "pretraining" in found:
        wanted = found["pretraining"]
        output.say()
        output.say("from zero, by the rule of 20 tokens a parameter (Chinchilla):")
        output.say(f"  tokens    {wanted['tokens']:,} ({wanted['passes_over_the_rows']:,} passes over these rows)")
        output.say(f"  products  {wanted['flops']:.2e} FLOP")
        for name, hours in wanted["hours"].items():
            output.say(f"  {name:<9} {duration(hours * 3600)}, calculated")


def _show_machine(machine: dict[str, Any], output: Output) -> None:
    from luthier.explain.wording import duration

    memory, seconds, cost = machine["memory"], machine["seconds"], machine["cost"]
    output.say()
    output.say(f"{machine['name']} ({machine['basis']})", style="bold")
    parts = [f"{name} {_size(memory[name])}" for name in PARTS if name != "copies" or memory[name]]
    output.say(f"  memory  {', '.join(parts[:3])},")
    output.say(f"          {', '.join(parts[3:])}")
    verdict = "fits" if memory["fits"] else "does not fit"
    output.say(f"          {_size(memory['total'])} of {_size(memory['available'])}: {verdict}", style="green" if memory["fits"] else "red")
    if seconds is not None:
        between = f"between {duration(seconds['low'])} and {duration(seconds['high'])}"
        output.say(f"  time    {duration(seconds['total'])}, {between}")
        output.say(f"          steps {duration(seconds['steps'])} at {_step(seconds['step'])} each")
    if cost is not None:
        output.say(f"  cost    {cost['total']:,.2f}, between {cost['low']:,.2f} and {cost['high']:,.2f}")
    if machine["change"]:
        keeps = machine["change"][0].startswith("training.batch_size")
        output.say("  to fit, which keeps the rows of a step:" if keeps else "  even one row is too much; one or more of:", style="yellow")
        for key in machine["change"]:
            output.say(f"    {key}")


def _step(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _size(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 10 * 2**30 else f"{size / 2**20:,.0f} MiB"


def _assumed(written: str) -> tuple[int, int]:
    rows, _, tokens = written.partition("x")
    if not (rows.isdigit() and tokens.isdigit() and int(rows) and int(tokens)):
        raise argparse.ArgumentTypeError(f"got {written!r}, wanted rows and tokens, such as 10000x128")
    return int(rows), int(tokens)
