"""What sst2 loses when its model is tuned on banking77, by each way of keeping it, against plain sequential tuning.

    LUTHIER_DATA=... python bench/forgetting.py [--seeds 3] [--ways plain l2_sp ewc replay] [--folder runs/forgetting]
    LUTHIER_DATA=... python bench/forgetting.py --quick          # a few hundred rows, about two minutes: does it work, not how well

Readings go to docs/forgetting.json, the table into docs/guide/updates.md; those of --quick are only printed. Finished trainings in the
folder are taken as they are, so that a long measurement can be stopped and begun again.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from results import keep_in, luthier

ROOT = Path(__file__).parents[1]
STORE = ROOT / "docs" / "forgetting.json"
PAGE = ROOT / "docs" / "guide" / "updates.md"
START, END = "<!-- measured: begin -->", "<!-- measured: end -->"
OLD, NEW = "sst2", "banking77"
WAYS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "l2_sp": ("training.l2_sp=100",),
    "ewc": ("keep.ewc=1000",),
    "replay": ("keep.replay=0.2",),
}
QUICK = ("training.epochs=3", "evaluate.baseline=false", "evaluate.resamples=200")
QUICK_ROWS, QUICK_INTENTS = 320, 10


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what each way of keeping an old task loses of it.")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each way, with seeds from 0 on (3)")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), help=f"among {', '.join(WAYS)}, or name:key=value,key=value of your own")
    parser.add_argument("--quick", action="store_true", help="a few hundred rows and one seed; nothing is stored")
    parser.add_argument("--folder", type=Path, help="where the runs are kept; none: a folder that is removed")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as aside:
        folder = asked.folder or Path(aside)
        folder.mkdir(parents=True, exist_ok=True)
        found = measured(folder, dict(map(way_of, asked.ways)), seeds=1 if asked.quick else asked.seeds, quick=asked.quick)
    print(table(found))
    if not asked.quick:
        keep_in(STORE, f"{OLD} then {NEW}", {"ways": found}, merge="ways")
        write_page()


def way_of(written: str) -> tuple[str, tuple[str, ...]]:
    """Return the name of a way and the keys that make it."""
    name, _, keys = written.partition(":")
    if not keys and name not in WAYS:
        raise SystemExit(f"--ways: unknown way '{name}'; known: {', '.join(WAYS)}, or name:key=value,key=value")
    return name, tuple(keys.split(",")) if keys else WAYS[name]


def measured(folder: Path, ways: dict[str, tuple[str, ...]], *, seeds: int, quick: bool) -> dict[str, Any]:
    """Return for each way what the old rows lost, by seed, and how well the new ones are answered."""
    small = few_rows(folder) if quick else {OLD: (), NEW: ()}
    found: dict[str, Any] = {name: {"changes": list(changes), "seeds": []} for name, changes in ways.items()}
    for seed in range(seeds):
        old = folder / f"{OLD}-{seed}"
        trained(OLD, old, (f"training.seed={seed}", *small[OLD]))
        for name, changes in ways.items():
            started = time.time()
            metrics = trained(NEW, folder / f"{NEW}-{name}-{seed}", (f"training.seed={seed}", f"keep.run={old}", *small[NEW], *changes))
            reading = reading_of(metrics) | {"seed": seed}
            found[name]["seeds"].append(reading)
            print(f"{name}, seed {seed}: {reading} ({time.time() - started:.0f} s)", flush=True)
    return found


def trained(preset: str, folder: Path, changes: tuple[str, ...]) -> dict[str, Any]:
    """Train a preset, or go on with it, and return its metrics."""
    return luthier("train", preset, *changes, "--output", str(folder), "--resume", "auto")


def reading_of(metrics: dict[str, Any]) -> dict[str, float]:
    """Return what is kept of a run: the old rows before and after, with the paired interval, and the new rows."""
    comparison = metrics["forgetting"]["comparison"]
    return {
        "before": comparison["base"],
        "after": comparison["tuned"],
        "low": comparison["low"],
        "high": comparison["high"],
        "new": metrics["scores"]["test"]["accuracy"]["value"],
        "seconds": metrics["training_seconds"],
    }


def table(found: dict[str, Any]) -> str:
    """Return the means over the seeds as a Markdown table; losses are points of accuracy."""
    seeds = {name: facts["seeds"] for name, facts in found.items()}
    lost = {name: [100 * (one["before"] - one["after"]) for one in readings] for name, readings in seeds.items()}
    plain = statistics.fmean(lost["plain"]) if lost.get("plain") else 0.0
    lines = [
        f"| way | {OLD} before | after | points lost (least to most) | of plain's loss | {NEW} | seconds |",
        "|---|---:|---:|---|---:|---:|---:|",
    ]
    for name, readings in seeds.items():
        mean = {key: statistics.fmean(one[key] for one in readings) for key in ("before", "after", "new", "seconds")}
        points = statistics.fmean(lost[name])
        share = f"{points / plain:.2f}" if plain > 0 else "-"
        keys = f" (`{' '.join(found[name]['changes'])}`)" if found[name]["changes"] else ""
        span = f"{points:.1f} ({min(lost[name]):.1f} to {max(lost[name]):.1f})"
        scores = f"{100 * mean['before']:.1f} % | {100 * mean['after']:.1f} % | {span} | {share} | {100 * mean['new']:.1f} %"
        lines.append(f"| {name}{keys} | {scores} | {mean['seconds']:.0f} |")
    return "\n".join(lines)


def few_rows(folder: Path) -> dict[str, tuple[str, ...]]:
    """Write a few hundred rows of both tasks, and return what has the presets read them."""
    data = Path(os.environ["LUTHIER_DATA"])
    changes: dict[str, tuple[str, ...]] = {}
    for split, rows in (("train", QUICK_ROWS), ("test", QUICK_ROWS)):
        lines = (data / OLD / f"{split}.tsv").read_text(encoding="utf-8").splitlines()[:rows]
        (folder / f"{OLD}-{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        with (data / NEW / f"{split}.csv").open(encoding="utf-8", newline="") as stream:
            every = list(csv.DictReader(stream))
        intents = sorted({row["category"] for row in every})[:QUICK_INTENTS]
        chosen = [row for intent in intents for row in [one for one in every if one["category"] == intent][: rows // QUICK_INTENTS]]
        with (folder / f"{NEW}-{split}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, ["text", "category"])
            writer.writeheader()
            writer.writerows(chosen)
    for name, ending in ((OLD, "tsv"), (NEW, "csv")):
        changes[name] = (*(f"data.{split}={folder / f'{name}-{split}.{ending}'}" for split in ("train", "test")), *QUICK)
    return changes


def write_page() -> None:
    """Put the table into docs/guide/updates.md."""
    lines = []
    for name, facts in json.loads(STORE.read_text(encoding="utf-8")).items():
        number = max(len(way["seeds"]) for way in facts["ways"].values())
        where = f"{facts['hardware']}, torch {facts['packages']['torch']}, {facts['measured']}"
        lines += [f"{name}, {number} seeds, {where} (`python bench/forgetting.py`):", "", table(facts["ways"]), ""]
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text("".join([before, START, "\n", "\n".join(lines), END, after]), encoding="utf-8")


if __name__ == "__main__":
    main()
