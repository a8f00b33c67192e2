"""`luthier merge`: a run's adapter written into its base, or the LoRAs of several runs added up to one."""

from __future__ import annotations

import argparse
from typing import Any

from luthier.cli.arguments import add_code_flag, load_code, new_parser
from luthier.cli.output import Output
from luthier.core.errors import ConfigError, Fault

EPILOG = """\
Of one run the result is a plain model folder, which loads in plain transformers and in luthier predict; its logits are compared with those
of reference.jsonl. Of several runs on one base it is an adapter folder, which loads in plain peft, and in luthier predict where the heads
agree: luthier merge RUN_A RUN_B --weights 0.7 0.3 --method ties --into FOLDER"""


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = new_parser("merge", "Write a run's adapter into its base, or add the LoRAs of several runs up to one.", epilog=EPILOG)
    made.add_argument("runs", nargs="+", metavar="RUN", help="a finished run with an adapter; several, or adapter folders, are added up")
    made.add_argument("--output", "--into", metavar="FOLDER", help="where the result goes (RUN/merged; to be named for several runs)")
    several = made.add_argument_group("of several runs")
    several.add_argument("--weights", nargs="+", type=float, metavar="NUMBER", help="what each is multiplied by (all alike)")
    several.add_argument("--method", metavar="NAME", help="svd (usual), cat, linear, ties, dare_linear or dare_ties")
    several.add_argument("--density", type=float, metavar="NUMBER", help="share of the numbers that ties and dare keep (0.5)")
    add_code_flag(made)
    return made


def run(parsed: argparse.Namespace, output: Output, started: float) -> dict[str, Any]:
    """Merge, and return what was compared."""
    load_code(parsed.code)
    named = {name: value for name in ("weights", "method", "density") if (value := getattr(parsed, name)) is not None}
    if len(parsed.runs) > 1:
        return _added_up(parsed, named, output)
    if named:
        raise ConfigError([Fault(f"--{name}", "is for several runs, and one is named", "leave it out, or name more") for name in named])
    from luthier.flow import merge

    result = merge(parsed.runs[0], parsed.output)
    output.say(f"model: {result['model']}")
    if "dequantized" in result:
        output.say(f"the base was in {result['dequantized']}; it is written in float32, with the values that the adapter was trained on")
    difference = f"logits of {result['inputs']} inputs differ by at most {result['largest_difference']:.1e}"
    output.say(f"{difference} from the run's ({result['precision']}; allowed {result['allowed']:.1e})")
    return result


def _added_up(parsed: argparse.Namespace, named: dict[str, Any], output: Output) -> dict[str, Any]:
    """Add the adapters of several runs up."""
    if parsed.output is None:
        raise ConfigError([Fault("--into", "is required for several runs", "name the adapter folder: --into models/NAME")])
    from luthier.flow import merge_adapters

    result = merge_adapters(parsed.runs, parsed.output, **named)
    shares = ", ".join(f"{weight:g} of {run}" for weight, run in zip(result["weights"], result["runs"], strict=True))
    output.say(f"adapter: {result['adapter']} ({result['method']}, rank {result['r']}): {shares}")
    if result["heads"]:
        output.say(f"head: the mean of those of the runs, in {', '.join(result['heads'])}")
    if result["predicts"]:
        output.say(f'predict:  luthier predict {result["adapter"]} "your text"')
    else:
        output.say("it has no head, for those of the runs are for other labels or prompts; plain peft loads it")
    return result
