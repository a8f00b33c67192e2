"""`luthier train`: from a recipe, or from flags alone, to a measured and documented run."""

from __future__ import annotations

import argparse
from typing import Any

from luthier.cli.arguments import add_code_flag, add_short_flags, flag_changes, load_code, new_parser, split_changes
from luthier.cli.arguments import spelled_out as spelled_out
from luthier.cli.output import Output
from luthier.core.errors import ConfigError, Fault

EPILOG = """\
examples:
  luthier train reviews.yaml optim.learning_rate=1e-4
  luthier train --data reviews.csv --text review --label stars --model bert-base-uncased
  luthier train --resume runs/reviews-001
Every key of the recipe can be set as key=value or --key value; docs/recipe.md lists them."""


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = new_parser("train", "Fine-tune a model on your data, measure it and document it.", epilog=EPILOG)
    made.add_argument("recipe", nargs="*", metavar="RECIPE | key=value", help="a YAML recipe or preset, and changes to it")
    made.add_argument("--resume", metavar="RUN", help="go on with a run where it stopped")
    add_short_flags(made)
    add_code_flag(made)
    return made


def run(parsed: argparse.Namespace, output: Output, started: float) -> dict[str, Any]:
    """Train, show the progress, and return the object of metrics.json."""
    load_code(parsed.code)
    plain, changes = split_changes(parsed.recipe)
    changes += flag_changes(parsed)
    if len(plain) > 1:
        raise ConfigError([Fault("recipe", f"got {len(plain)} recipes: {' '.join(plain)}", "name one; changes are written key=value")])
    if parsed.resume and (plain or changes):
        raise ConfigError([Fault("--resume", "takes no recipe and no changes: a run goes on as it began", "start a new run instead")])
    if not parsed.resume and not plain and not changes:
        raise ConfigError([Fault("recipe", "nothing to train on", "luthier train --data FILE, or luthier init FILE to write a recipe")])
    from luthier.cli.progress import follow
    from luthier.cli.summary import show_summary
    from luthier.flow import Training

    if parsed.resume:
        training = Training.again(parsed.resume, started=started)
    else:
        training = Training.begin(plain[0] if plain else None, changes=changes, started=started)
    output.say(f"run: {training.run.path}" + (" (finished already; nothing is left to do)" if training.metrics else ""))
    follow(training, output)
    assert training.metrics is not None
    show_summary(training.run, training.metrics, output)
    return training.metrics
