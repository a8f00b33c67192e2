"""`luthier adapters`: what a run's adapter is made of."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from luthier.cli.arguments import new_parser
from luthier.cli.output import Output


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = new_parser("adapters", "Show the method, size and modules of a run's adapter.")
    made.add_argument("run", metavar="RUN", help="a finished run with an adapter")
    return made


def run(parsed: argparse.Namespace, output: Output, started: float) -> dict[str, Any]:
    """Show the adapter."""
    from luthier.flow import describe_adapter

    found = describe_adapter(parsed.run)
    settings = ", ".join(f"{key} {value}" for key, value in found["adapter"].items() if key not in ("type", "target_modules"))
    output.say(f"adapter: {found['adapter']['type']}" + (f" ({settings})" if settings else ""))
    output.say(f"base: {found['base']}" + (" (held in bfloat16)" if found["base_in_half"] else ""))
    if sizes := found["parameters"]:
        output.say(f"trained: {sizes['adapter']:,} numbers, {found['share']:.2%} of the {sizes['base']:,} of the base")
        output.say(f"head: {sizes['head']:,} numbers in {', '.join(found['heads'])}" if sizes["head"] else "head: that of the base")
    ends = Counter(name.rpartition(".")[2] for name in found["target_modules"])
    if ends:
        output.say(f"modules: {', '.join(f'{end} ({count})' if count > 1 else end for end, count in sorted(ends.items()))}")
    output.say(f"file: {found['bytes']:,} bytes")
    return found
