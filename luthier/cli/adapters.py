"""`luthier adapters`: what the adapter of a run or of any folder is made of."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from luthier.cli.arguments import new_parser
from luthier.cli.output import Output


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = new_parser("adapters", "Show the method, size and modules of the adapter of a run, or of those in any folder.")
    made.add_argument("run", metavar="FOLDER", help="a finished run with an adapter, its model folder, or what the PEFT library saved")
    return made


def run(parsed: argparse.Namespace, output: Output, started: float) -> dict[str, Any]:
    """Show the adapters."""
    from luthier.flow import describe_adapter

    found = describe_adapter(parsed.run)
    several = [found, *found.get("others", [])]
    for one in several:
        if len(several) > 1:
            output.say(f"{one['name']}:")
        _say(one, output)
    return found


def _say(found: dict[str, Any], output: Output) -> None:
    settings = ", ".join(f"{key} {value}" for key, value in found["adapter"].items() if key not in ("type", "target_modules"))
    output.say(f"adapter: {found['adapter']['type']}" + (f" ({settings})" if settings else ""))
    output.say(f"base: {found['base']}" + (" (held in bfloat16)" if found["base_in_half"] else ""))
    sizes = found["parameters"] or found["in_file"]
    if sizes:
        share = f", {found['share']:.2%} of the base" if found["share"] is not None else ""
        if found["parameters"]:
            share = f", {found['share']:.2%} of the {sizes['base']:,} of the base"
        output.say(f"trained: {sizes['adapter']:,} numbers{share}")
        output.say(f"head: {sizes['head']:,} numbers in {', '.join(found['heads'])}" if sizes["head"] else "head: that of the base")
    else:
        output.say("numbers: not counted, for the weights are in no safetensors file")
    ends = Counter(name.rpartition(".")[2] for name in found["target_modules"])
    if ends:
        output.say(f"modules: {', '.join(f'{end} ({count})' if count > 1 else end for end, count in sorted(ends.items()))}")
    output.say(f"file: {found['bytes']:,} bytes")
