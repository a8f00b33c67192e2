"""What the text tasks reach on real data: trained with each seed, kept in docs/text-tasks.json, written up in docs/text-tasks.md.

    LUTHIER_DATA=... python bench/text_tasks.py [--works snips stsb ...] [--seeds 3] [--folder FOLDER]
    python bench/text_tasks.py --list

Trainings in the folder that are finished are taken as they are; a work's readings are kept as soon as one more seed is there. The models
are all-MiniLM-L6-v2, the tiny decoder of LUTHIER_DATA, and small T5-shaped ones from nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from results import ROOT, keep_in, luthier
from texts.works import WORKS, TextWork

STORE, PAGE = ROOT / "docs" / "text-tasks.json", ROOT / "docs" / "text-tasks.md"
START, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what the text tasks reach on real data.")
    parser.add_argument("--works", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the runs are kept; none: a folder that is removed")
    parser.add_argument("--list", action="store_true", help="say what there is, and measure nothing")
    asked = parser.parse_args()
    if asked.list:
        print("\n".join(f"{name:16} {work.title}; asked: {work.asked or '-'}" for name, work in WORKS.items()))
        return
    with tempfile.TemporaryDirectory() as aside:
        folder = asked.folder or Path(aside)
        folder.mkdir(parents=True, exist_ok=True)
        for name in asked.works:
            measure(name, WORKS[name], asked.seeds, folder)


def measure(name: str, work: TextWork, seeds: int, folder: Path) -> None:
    """Train a work with each seed, and keep its scores after each."""
    words = work.words(Path(os.environ["LUTHIER_DATA"]), folder)
    runs = []
    for seed in range(seeds):
        run = folder / f"{name}-{seed}"
        found = luthier("train", *words, f"training.seed={seed}", f"output={run}", "--resume", "auto")
        runs.append(reading_of(found, work) | {"seed": seed})
        print(name, json.dumps(runs[-1]), flush=True)
        keep_in(STORE, name, {"title": work.title, "asked": work.asked, "command": shown(words, folder), "runs": runs})
        write_page()


def reading_of(found: dict[str, Any], work: TextWork) -> dict[str, Any]:
    """Return the scores of the test rows that a work is about, and what its training took."""
    scores = {name: found["scores"]["test"][name] for name in work.scores}
    return {"scores": scores, "epochs": found["epochs"], "training_seconds": found["training_seconds"]}


def shown(words: list[str], folder: Path) -> str:
    """Return the command as a person would write it."""
    data = os.environ["LUTHIER_DATA"]
    said = [word.replace(data, "$D").replace(str(folder), "FOLDER") for word in words]
    return "luthier train " + " ".join(f"'{word}'" if " " in word or "{" in word else word for word in said)


def table(stored: dict[str, Any]) -> str:
    """Return what was measured as Markdown: means over the seeds, and the widest interval of a single run."""
    lines = ["| task and data | asked | reached | seeds | measured |", "|---|---|---|---|---|"]
    for facts in stored.values():
        reached = "; ".join(f"{name} {over_seeds([run['scores'][name] for run in facts['runs']])}" for name in facts["runs"][0]["scores"])
        lines.append(f"| {facts['title']} | {facts['asked'] or '-'} | {reached} | {len(facts['runs'])} | {facts['measured']} |")
    commands = [f"- {facts['title']}: `{facts['command']}`" for facts in stored.values()]
    return "\n".join([*lines, "", "`python bench/text_tasks.py` runs these, with `$D` for `LUTHIER_DATA`:", "", *commands])


def over_seeds(scores: list[dict[str, Any]]) -> str:
    """Return the mean over seeds, and the mean ends of the runs' intervals."""
    value, low, high = (statistics.fmean(one[key] for one in scores) for key in ("value", "low", "high"))
    digits = 3 if abs(value) < 10 else 1
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def write_page() -> None:
    """Put the table into docs/text-tasks.md."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    written = table(json.loads(STORE.read_text(encoding="utf-8")))
    PAGE.write_text("".join([before, START, "\n", written, "\n", END, after]), encoding="utf-8")


if __name__ == "__main__":
    main()
