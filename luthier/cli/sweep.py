"""`luthier sweep`: many trainings of one recipe with other values of some keys, the best written out; or variants in one table."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from luthier.cli.arguments import add_code_flag, load_code, new_parser, split_changes
from luthier.cli.arguments import spelled_out as spelled_out
from luthier.cli.comparison import chosen_words, run_comparison
from luthier.cli.output import Output
from luthier.core.errors import ConfigError, Fault
from luthier.core.names import did_you_mean
from luthier.core.run_folder import RunFolder

if TYPE_CHECKING:
    from rich.table import Table

    from luthier.workflows.sweep.section import SweepPlan

CLUSTERS = ("ray",)
EPILOG = """\
a sweep file:
  recipe: reviews.yaml
  space:
    optim.learning_rate: {low: 1e-5, high: 1e-3, log: true}
    training.batch_size: [16, 32]
  sampler: tpe        # random, grid, cmaes
  pruner: median      # none, asha
  trials: 20
or, to compare variants in one table (score, trained share, time, memory):
  recipes: [reviews.yaml, sst2]
  variants:
    full: {}
    lora: {adapter: {type: lora, r: 8}, optim: {learning_rate: 1e-3}}
  seeds: [0, 1, 2]
  luthier sweep compare-methods --recipes sst2 --variants full lora --seeds 0 training.epochs=1
Stopped or killed, it goes on with the same command."""


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = new_parser("sweep", "Search for the best values of some keys of a recipe, by its validation rows.", epilog=EPILOG)
    made.add_argument("sweep", metavar="FILE", help="a sweep file, or the name of a shipped one, such as compare-methods")
    made.add_argument("changes", nargs="*", metavar="key=value", help="changes to the recipe that is varied")
    made.add_argument("--trials", metavar="N", type=int, help="number of trials")
    made.add_argument("--hours", metavar="H", type=float, help="training time after which no trial goes on")
    made.add_argument("--output", metavar="FOLDER", help="folder of the sweep (sweeps/ and the name of the file)")
    made.add_argument("--variants", metavar="NAME", nargs="+", help="of a file with variants: those that are trained")
    made.add_argument("--recipes", metavar="NAME", nargs="+", help="of a file with variants: the recipes that are varied")
    made.add_argument("--seeds", metavar="N", nargs="+", help="of a file with variants: other seeds")
    made.add_argument("--workers", metavar="N", type=int, help="trainings at a time, each with its share of the cores (1)")
    made.add_argument("--cluster", metavar="NAME", help="ray: --workers trials at a time on the cluster at RAY_ADDRESS, else here")
    add_code_flag(made)
    return made


def run(parsed: argparse.Namespace, output: Output, started: float) -> dict[str, Any]:
    """Do the sweep, show how it goes, and return what was found."""
    load_code(parsed.code)
    plain, changes = split_changes([*parsed.changes, *chosen_words(parsed)])
    if plain:
        raise ConfigError([Fault("changes", f"got '{plain[0]}', wanted key=value", "one sweep file is named first")])
    from luthier.workflows.comparison.section import has_variants

    if parsed.cluster not in (None, *CLUSTERS):
        raise ConfigError([Fault("--cluster", f"unknown cluster '{parsed.cluster}'", did_you_mean(parsed.cluster, CLUSTERS))])
    if has_variants(parsed.sweep):
        return run_comparison(parsed, changes, output)
    for name in ("variants", "recipes", "seeds"):
        if getattr(parsed, name) is not None:
            what = "is for a sweep file with variants, and this one has a space"
            raise ConfigError([Fault(f"--{name}", what, "leave it out, or write variants: into the file")])
    from luthier.workflows.sweep.section import read_sweep

    said = {"trials": parsed.trials, "hours": parsed.hours, "workers": parsed.workers, "output": parsed.output}
    plan = read_sweep(parsed.sweep, {key: value for key, value in said.items() if value is not None}, changes)
    if plan.file.workers == 1 and parsed.cluster is None:
        found = _in_turn(plan, output)
    else:
        found = _at_once(plan, parsed.code, output, on_ray=parsed.cluster == "ray")
    _show(found, output)
    return found


def _in_turn(plan: SweepPlan, output: Output) -> dict[str, Any]:
    from luthier.cli.progress import follow
    from luthier.workflows.sweep.sweep import Sweep

    sweep = Sweep(plan)
    for trial in sweep:
        output.say(f"trial {trial.number} of {sweep.plan.num_trials}: {_values(trial.values)}")
        follow(trial, output)
        score = f", {sweep.plan.metric} {trial.value:.4f}" if trial.value is not None else ""
        output.say(f"trial {trial.number}: {trial.state}{score}" + (f": {trial.error}" if trial.error else ""))
    return sweep.findings()


def _at_once(plan: SweepPlan, code: list[str], output: Output, *, on_ray: bool) -> dict[str, Any]:
    from luthier.workflows.sweep.on_ray import OnRay
    from luthier.workflows.sweep.workers import Workers

    sweep: OnRay | Workers = OnRay(plan, code) if on_ray else Workers(plan, code)
    where = "on Ray" if on_ray else f"in {plan.file.workers} processes; what they say is in {plan.folder}/workers"
    output.say(f"trials {where}")
    for trial in sweep:
        score = f", {plan.metric} {trial['score']:.4f}" if trial["score"] is not None else ""
        said = f": {trial['error']}" if trial["error"] else ""
        output.say(f"trial {trial['trial']} of {plan.num_trials}: {_values(trial['values'])}: {trial['state']}{score}{said}")
    return sweep.findings()


def _show(found: dict[str, Any], output: Output) -> None:
    output.say()
    output.show(_table(found))
    counts = ", ".join(f"{count} {state}" for state, count in found["counts"].items() if count)
    output.say(f"{counts or 'no trials'} in {found['seconds'] / 60:.1f} minutes; all are in {found['sweep']}/sweep.json")
    for trial in found["trials"]:
        if trial["state"] == "failed":
            output.say(f"trial {trial['trial']} failed: {trial['error']}", style="yellow")
    for key, share in (found["importance"] or {}).items():
        output.say(f"{share:5.0%} of the differences: {key}")
    if found["importance"]:
        output.say(f"picture: {found['sweep']}/importance.svg")
    best = found["best"]
    if best is None:
        output.say("no trial ended with a score: there is no best recipe", style="yellow")
        return
    output.say(f"best: trial {best['trial']}, {_values(best['values'])}")
    for split, score in best["scores"].items():
        note = " (it chose the trial, so it flatters it)" if split == "validation" else ""
        output.say(f"  {split} {found['metric']}: {_interval(score)}{note}")
    output.say(f"train it again: luthier train {best['recipe']}")
    names = RunFolder(best["run"]).task_names
    output.say(f'predict:  luthier predict {best["run"]} {f"--as {names[0]} " if names else ""}"your text"')


def _table(found: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(title=f"trials, best {found['metric']} first", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    keys = list(dict.fromkeys(key for trial in found["trials"] for key in trial["values"]))
    for column in ("trial", "state", found["metric"], "seconds", *keys):
        table.add_column(column, overflow="fold")
    sign = -1 if found["greater_is_better"] else 1
    for trial in sorted(found["trials"], key=lambda one: (one["score"] is None, sign * (one["score"] or 0.0), one["trial"])):
        score = "-" if trial["score"] is None else f"{trial['score']:.4f}"
        values = [_short(trial["values"].get(key)) for key in keys]
        table.add_row(str(trial["trial"]), trial["state"], score, f"{trial['seconds']:.0f}", *values)
    return table


def _values(values: dict[str, Any]) -> str:
    return "  ".join(f"{key}={_short(value)}" for key, value in values.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _interval(score: dict[str, float | None]) -> str:
    from luthier.cli.summary import interval

    return interval(score)
