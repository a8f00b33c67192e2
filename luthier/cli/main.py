"""The command `luthier`: finds the verb, runs it, and turns errors into messages and exit codes."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

VERBS = {
    "train": "fine-tune a model on your data, measure it and document it",
    "plan": "say what a run will need before it is begun: memory, time, cost",
    "schedule": "draw the learning rate over the steps of a run, before it is begun",
    "evaluate": "score a run on its held-out rows, or on other labelled rows",
    "predict": "answer texts with a run: one text, a file, or lines on standard input",
    "chat": "speak with a run that writes, line by line, its answers streamed",
    "classify": "answer texts with labels that you name, without training: by their names, a few examples, or entailment",
    "sweep": "search for the best values of some keys of a recipe, by its validation rows",
    "ensemble": "score several runs together, beside each of them",
    "soup": "average the weights of several runs into one model",
    "crossval": "train a recipe on all but one part of its rows, for each part, and say how the scores vary",
    "merge": "write a run's adapter into its base, or add several up to one",
    "adapters": "show the method, size and modules of an adapter",
    "runs": "list runs with their scores",
    "init": "look at a data file and write a commented recipe for it",
    "check": "validate a recipe and its data without training, and show two encoded rows",
    "data": "show rows as the model gets them, and what is cut and left out: data preview",
    "demo": "fine-tune the embedded model on the embedded data and show what changed",
    "env": "show versions, processor and memory",
    "version": "show the version",
}
KERNELS = "32"  # shapes whose CPU kernels torch keeps: with more, rows of ever new lengths make memory grow, and no step is faster
SPINS = "1000"  # threads that wait give their core away sooner: beside another busy process steps are 3 times as fast
USAGE = """\
Luthier fine-tunes models on your data, measures them and answers with them.

usage: luthier VERB [...]

{verbs}

start here:
  luthier demo                                    see it work, offline, in about a minute
  luthier init reviews.csv                        look at your data and write a recipe
  luthier train reviews.yaml                      train it
  luthier predict runs/reviews-001 "some text"    use it

`luthier VERB --help` says what a verb takes. Exit codes: 0 done, 2 something to mend on your side,
3 the run stopped itself, 130 Ctrl-C, 143 SIGTERM, 1 a fault of ours.
"""


def entry() -> None:
    """Run the command line and exit."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: list[str]) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: What stands after `luthier`.
    """
    started = time.time()
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE.format(verbs="\n".join(f"  {verb:<10} {help_}" for verb, help_ in VERBS.items())))
        return 0
    verb = "version" if arguments[0] in ("--version", "-V") else arguments[0]
    if verb not in VERBS:
        from luthier.core.names import did_you_mean

        print(f"error: unknown verb '{verb}': {did_you_mean(verb, VERBS)}", file=sys.stderr)
        return 2
    if verb == "version" and len(arguments) == 1:
        from luthier.version import __version__

        print(__version__)
        return 0
    return _run(verb, arguments[1:], started)


def _run(verb: str, arguments: list[str], started: float) -> int:
    import importlib
    import os

    from luthier.cli.failures import report
    from luthier.cli.output import Output
    from luthier.cli.stopping import Stopping
    from luthier.core.allocator import share_freed_memory

    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    os.environ.setdefault("LRU_CACHE_CAPACITY", KERNELS)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if "RANK" in os.environ:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP would say of every process that it looks for unused parameters
    share_freed_memory()
    module = importlib.import_module(f"luthier.cli.{verb}")
    output = Output(as_json="--json" in arguments, silent=os.environ.get("RANK", "0") != "0")
    try:
        with Stopping():
            parsed = _parsed(module.parser(), module.spelled_out(arguments) if hasattr(module, "spelled_out") else arguments)
            result = module.run(parsed, output, started)
        output.finish(result)
    except SystemExit as error:
        if error.code:
            output.finish({"error": "the command line was not understood", "exit_code": error.code})
        return int(error.code or 0)
    except BaseException as error:  # every way out of a verb ends in a message and an exit code
        return report(error, output)
    return 0


def _parsed(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    from luthier.core.errors import ConfigError, Fault
    from luthier.core.names import did_you_mean

    parsed, unknown = parser.parse_known_intermixed_args(arguments)
    parsed.words = arguments
    if not unknown:
        return parsed
    flag = unknown[0].partition("=")[0]
    if not flag.startswith("-"):
        raise ConfigError([Fault(flag, "is one word too many", f"{parser.prog} --help says what it takes")])
    known = [name for action in parser._actions for name in action.option_strings]
    raise ConfigError([Fault(flag, "unknown flag", f"{did_you_mean(flag, known)} A text that starts with - goes after --")])
