"""`luthier merge`: a run's adapter written into its base."""

from __future__ import annotations

import argparse
from typing import Any

from luthier.cli.arguments import add_code_flag, load_code, new_parser
from luthier.cli.output import Output

EPILOG = """\
The merged folder loads in plain transformers, and in luthier predict. Its logits are compared with those of reference.jsonl."""


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = new_parser("merge", "Write a run's adapter into its base: a plain model folder.", epilog=EPILOG)
    made.add_argument("run", metavar="RUN", help="a finished run with an adapter")
    made.add_argument("--output", metavar="FOLDER", help="where the model goes (RUN/merged)")
    add_code_flag(made)
    return made


def run(parsed: argparse.Namespace, output: Output, started: float) -> dict[str, Any]:
    """Merge, and return what was compared."""
    load_code(parsed.code)
    from luthier.flow import merge

    result = merge(parsed.run, parsed.output)
    output.say(f"model: {result['model']}")
    if "dequantized" in result:
        output.say(f"the base was in {result['dequantized']}; it is written in float32, with the values that the adapter was trained on")
    difference = f"logits of {result['inputs']} inputs differ by at most {result['largest_difference']:.1e}"
    output.say(f"{difference} from the run's ({result['precision']}; allowed {result['allowed']:.1e})")
    return result
