"""What each means under `training.speed` gains: steps with everything on, in turns with steps that lack one means, in one process.

    LUTHIER_DATA=... python bench/switches.py [--steps 30] [--recipe sst2] [lean_blocks row_embedding ...]

Readings go to docs/switches.json and into the table of docs/speed.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from results import keep_in

ROOT = Path(__file__).parents[1]
STORE = ROOT / "docs" / "switches.json"
PAGE = ROOT / "docs" / "speed.md"
SWITCHES = ("fast_dropout", "lean_blocks", "needed_positions", "row_embedding")
START, END = "<!-- measured: begin -->", "<!-- measured: end -->"
LEFT_OUT = 3


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what each means of training.speed gains.")
    parser.add_argument("switches", nargs="*", default=[*SWITCHES, "all", "keep_memory"])
    parser.add_argument("--recipe", default="sst2")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(paged(asked.recipe, asked.steps, kept=asked.child == "on")))
        return
    found = {}
    for name in asked.switches:
        found[name] = memory(asked.recipe, asked.steps) if name == "keep_memory" else in_turns(asked.recipe, asked.steps, name)
        print(name, json.dumps(found[name]), flush=True)
    keep_in(STORE, asked.recipe, {"steps": asked.steps, "switches": found}, merge="switches")
    write_page()


def in_turns(recipe: str, steps: int, name: str) -> dict[str, float]:
    """Return how many times faster a step is with a means than without it: median, least and most of the pairs."""
    without = SWITCHES if name == "all" else (name,)
    sides = [steps_of(recipe, ()), steps_of(recipe, without)]
    times: list[list[float]] = [[], []]
    for step in range(steps + LEFT_OUT):
        for side in (0, 1) if step % 2 else (1, 0):
            times[side].append(next(sides[side]).seconds)
    return ratios(*(several[LEFT_OUT:] for several in times))


def ratios(with_it: list[float], without: list[float]) -> dict[str, float]:
    """Return the ratios of the pairs."""
    each = [slow / fast for fast, slow in zip(with_it, without, strict=True)]
    return {"median": statistics.median(each), "min": min(each), "max": max(each), "seconds": statistics.median(with_it)}


def steps_of(recipe: str, without: tuple[str, ...]) -> Any:
    """Return the ticks of a training, without its run folder."""
    from luthier import flow
    from luthier.recipe import resolve
    from luthier.stages.layout.begin import lay_out
    from luthier.training.loop import ticks
    from luthier.training.step_rules import step_rules

    resolved = resolve(recipe, {f"training.speed.{name}": False for name in without})
    bench = lay_out(resolved, flow.prepare(resolved))
    rule = step_rules.get("accumulate")()
    saved = bench.saved
    return ticks(saved.source, bench.parts, bench.work, rule, saved.optimiser, bench.pace, saved.state, bench.care)


def paged(recipe: str, steps: int, *, kept: bool) -> dict[str, float]:
    """Return the median seconds and page faults of a step in this process."""
    going = steps_of(recipe, () if kept else ("keep_memory",))
    seconds, faults = [], []
    for _ in range(steps + LEFT_OUT):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        seconds.append(next(going).seconds)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return {"seconds": statistics.median(seconds[LEFT_OUT:]), "faults": statistics.median(faults[LEFT_OUT:])}


def memory(recipe: str, steps: int, pairs: int = 3) -> dict[str, Any]:
    """Return the same for kept memory, which is a matter of the whole process: child processes in turns."""
    sides: dict[str, list[dict[str, float]]] = {"on": [], "off": []}
    for _ in range(pairs):
        for side, readings in sides.items():
            command = [sys.executable, __file__, "--child", side, "--recipe", recipe, "--steps", str(steps)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            readings.append(json.loads(done.stdout.splitlines()[-1]))
    found = ratios(*([reading["seconds"] for reading in readings] for readings in sides.values()))
    return found | {f"faults_{side}": statistics.median(r["faults"] for r in readings) for side, readings in sides.items()}


def write_page() -> None:
    """Put the table into docs/speed.md."""
    stored = json.loads(STORE.read_text(encoding="utf-8"))
    lines = []
    for recipe, facts in stored.items():
        lines += [
            f"A step of `{recipe}`, {facts['steps']} pairs, {facts['hardware']}, torch {facts['packages']['torch']}, {facts['measured']}:",
            "",
            "| without | times slower: median (least to most) |",
            "|---|---|",
        ]
        lines += [
            f"| {_called(name)} | {r['median']:.2f} ({r['min']:.2f} to {r['max']:.2f}){_faults(r)} |"
            for name, r in facts["switches"].items()
        ]
        lines.append("")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text("".join([before, START, "\n", "\n".join(lines), END, after]), encoding="utf-8")


def _called(name: str) -> str:
    return "the first four together" if name == "all" else f"`{name}`"


def _faults(reading: dict[str, float]) -> str:
    return f"; page faults a step {reading['faults_on']:.0f}, without it {reading['faults_off']:.0f}" if "faults_on" in reading else ""


if __name__ == "__main__":
    main()
