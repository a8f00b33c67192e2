"""`luthier train`: from a recipe, or from flags alone, to a measured and documented run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from luthier.cli.arguments import add_code_flag, add_short_flags, load_code, new_parser, recipe_named, without
from luthier.cli.arguments import spelled_out as spelled_out
from luthier.cli.output import Output
from luthier.core.errors import ConfigError, Fault
from luthier.core.names import did_you_mean
from luthier.workflows.launch import follow_launcher, launch

if TYPE_CHECKING:
    from luthier.flow import Training
    from luthier.workflows.ray_cluster import RayTraining

CLUSTERS = ("ray",)
EPILOG = """\
examples:
  luthier train reviews.yaml optim.learning_rate=1e-4
  luthier train --data reviews.csv --text review --label stars --model bert-base-uncased
  luthier train --resume runs/reviews-001
  luthier train reviews.yaml --find-lr
  luthier train new-reviews.yaml --from runs/reviews-001 keep.replay=0.2
  luthier train reviews.yaml --processes 2
  luthier train reviews.yaml --cluster ray --processes 4 --output /shared/runs/reviews
Every key of the recipe can be set as key=value or --key value; docs/recipe.md lists them."""


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = new_parser("train", "Fine-tune a model on your data, measure it and document it.", epilog=EPILOG)
    made.add_argument("recipe", nargs="*", metavar="RECIPE | key=value", help="a YAML recipe or preset, and changes to it")
    made.add_argument(
        "--resume", metavar="RUN", help="go on with a run where it stopped; auto: with the one in the recipe's output folder, or begin it"
    )
    made.add_argument(
        "--processes", metavar="N", type=_one_or_more, help="share the work among N processes of this machine, or the cluster"
    )
    made.add_argument(
        "--cluster", metavar="NAME", help="ray: 2 workers, or --processes, of the cluster at RAY_ADDRESS, else of this machine"
    )
    made.add_argument("--max-restarts", metavar="N", type=_none_or_more, default=3, help="times that a cluster replaces lost workers (3)")
    made.add_argument("--from", dest="from_run", metavar="RUN", help="tune a finished run further on these rows (keep.run)")
    made.add_argument("--find-lr", action="store_true", help="do not train: propose a learning rate by a range test on a copy of the model")
    add_short_flags(made)
    add_code_flag(made)
    return made


def run(parsed: argparse.Namespace, output: Output, started: float) -> dict[str, Any] | None:
    """Train, show the progress, and return the object of metrics.json."""
    load_code(parsed.code)
    recipe, changes = recipe_named(parsed)
    changes += [("keep.run", parsed.from_run)] if parsed.from_run else []
    again = parsed.resume == "auto"
    if parsed.resume and not again and (recipe or changes):
        raise ConfigError([Fault("--resume", "takes no recipe and no changes: a run goes on as it began", "start a new run instead")])
    if not recipe and not changes and (again or not parsed.resume):
        raise ConfigError([Fault("recipe", "nothing to train on", "luthier train --data FILE, or luthier init FILE to write a recipe")])
    if _has_folds(recipe, changes):
        return _all_folds(parsed, recipe, changes, output)
    if parsed.find_lr:
        return _find_rate(parsed, recipe, changes, output)
    if parsed.cluster is not None:
        training: Training | RayTraining = _on_cluster(parsed, recipe, changes, started)
    elif (parsed.processes or 1) > 1:
        _launch(parsed, recipe, changes)
        return None
    else:
        training = _here(parsed, recipe, changes, started)
    from luthier.cli.progress import follow
    from luthier.cli.summary import show_summary

    output.say(f"run: {training.run.path}" + (" (finished already; nothing is left to do)" if training.metrics else ""))
    follow(training, output)
    if training.metrics is not None:
        show_summary(training.run, training.metrics, output)
    return training.metrics


def _has_folds(recipe: str | None, changes: list[tuple[str, Any]]) -> bool:
    from luthier.recipe import resolve

    return bool(recipe or changes) and resolve(recipe, changes).evaluate.folds is not None


def _all_folds(parsed: argparse.Namespace, recipe: str | None, changes: list[tuple[str, Any]], output: Output) -> dict[str, Any]:
    for flag in ("find_lr", "processes", "cluster"):
        if getattr(parsed, flag) not in (None, False, 1):
            name = flag.replace("_", "-")
            raise ConfigError([Fault("evaluate.folds", f"does not go with --{name}", f"leave out --{name}, or evaluate.folds=null")])
    from luthier.cli.crossval import run_folds

    return run_folds(recipe, changes, None, output)


def _find_rate(parsed: argparse.Namespace, recipe: str | None, changes: list[tuple[str, Any]], output: Output) -> dict[str, Any]:
    for flag in ("resume", "processes", "cluster"):
        if getattr(parsed, flag) not in (None, 1):
            raise ConfigError([Fault("--find-lr", f"does not go with --{flag}", "it tries rates in one process, before a run is begun")])
    from luthier.cli.rates import show_rates
    from luthier.flow import find_rate

    found = find_rate(recipe, changes=changes)
    given = [word for word in without(parsed.words, "--output") if word not in ("--find-lr", "--json") and not word.startswith("output=")]
    show_rates(found, without(given, "--lr"), output)
    return found


def _here(parsed: argparse.Namespace, recipe: str | None, changes: list[tuple[str, Any]], started: float) -> Training:
    from luthier.flow import Training

    follow_launcher()
    if parsed.resume and parsed.resume != "auto":
        return Training.again(parsed.resume, started=started)
    return Training.begin(recipe, changes=changes, started=started, again=parsed.resume == "auto")


def _on_cluster(parsed: argparse.Namespace, recipe: str | None, changes: list[tuple[str, Any]], started: float) -> Training | RayTraining:
    if parsed.cluster not in CLUSTERS:
        raise ConfigError([Fault("--cluster", f"unknown cluster '{parsed.cluster}'", did_you_mean(parsed.cluster, CLUSTERS))])
    from luthier.workflows import ray_cluster

    workers = ray_cluster.Workers(parsed.processes or 2, parsed.max_restarts, parsed.code)
    if parsed.resume and parsed.resume != "auto":
        return ray_cluster.resume(parsed.resume, workers, started=started)
    return ray_cluster.begin(recipe, workers, changes=changes, started=started, again=parsed.resume == "auto")


def _launch(parsed: argparse.Namespace, recipe: str | None, changes: list[tuple[str, Any]]) -> None:
    """Have several processes do it, after a look at the recipe, so that its faults are said once."""
    from luthier.recipe import resolve

    if recipe or changes:
        resolve(recipe, changes)
    launch(["train", *without(parsed.words, "--processes")], parsed.processes)


def _one_or_more(written: str) -> int:
    if not written.isdigit() or int(written) < 1:
        raise argparse.ArgumentTypeError(f"got {written!r}, wanted a whole number of processes, such as 2")
    return int(written)


def _none_or_more(written: str) -> int:
    if not written.isdigit():
        raise argparse.ArgumentTypeError(f"got {written!r}, wanted a whole number, such as 3")
    return int(written)
