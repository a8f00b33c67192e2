"""What a student of 3 layers keeps of a teacher of 6, with and without its teaching, and how much faster it answers (sst2).

    LUTHIER_DATA=... python bench/distillation.py                              the whole: auto epochs, all rows, 3 seeds
    LUTHIER_DATA=... python bench/distillation.py --rows 600 --epochs 1 --seeds 1 --store /tmp/try.json      a short form, docs/ left alone
    python bench/distillation.py table                                         the table of docs/guide/distillation.md anew

Students begin with layers of the teacher, head and embeddings included, and differ in `distill` alone. All answer the test rows of sst2;
the share that a student keeps is its accuracy by the teacher's, with an interval from a bootstrap over the test rows. Speed is that of
`Predictor.outputs` on the same texts, student and teacher in turns in one process, one after the other in changing order.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from results import keep_in

ROOT = Path(__file__).parents[1]
STORE = ROOT / "docs" / "distillation.json"
PAGE = ROOT / "docs" / "guide" / "distillation.md"
START, END = "<!-- measured: begin -->", "<!-- measured: end -->"
COMMAND = [sys.executable, "-m", "luthier"]
WAYS: dict[str, list[str]] = {
    "labels alone": [],
    "answers": ["distill.weight=0.5", "distill.temperature=2"],
    "answers, words left out at random": ["distill.weight=0.5", "distill.temperature=2", "data.augment=[word-dropout]"],
    "answers and states": ["distill.weight=0.5", "distill.temperature=2", "distill.hidden=1"],
    "answers and relations": ["distill.weight=0.5", "distill.temperature=2", "distill.attention=1", "distill.layers=last"],
}
KEPT, FASTER = 0.97, 1.8
RESAMPLES = 2000
Rows = list[tuple[str, str]]


def main() -> None:
    """Measure what is asked for, and print the table."""
    asked = arguments()
    if asked.what == "table":
        write_page(asked.store)
        return
    test = rows_of(Path(os.environ["LUTHIER_DATA"]) / "sst2" / "test.tsv")
    with tempfile.TemporaryDirectory() as folder:
        facts = measured(asked, Path(folder), test)
    keep_in(asked.store, "sst2", facts)
    print(table({"sst2": json.loads(asked.store.read_text(encoding="utf-8"))["sst2"]}))
    if asked.store == STORE:
        write_page(asked.store)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what students keep of a teacher.")
    parser.add_argument("what", nargs="?", choices=("measure", "table"), default="measure")
    parser.add_argument("--teacher", type=Path, help="a finished run on sst2 instead of training one")
    parser.add_argument("--keep", type=int, nargs="+", default=[0, 2, 4], help="the teacher's layers that the students begin with")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--seeds", type=int, default=3, help="students of each way")
    parser.add_argument("--rows", type=int, help="training rows; none: all")
    parser.add_argument("--epochs", type=float, help="epochs of teacher and students; none: auto")
    parser.add_argument("--pairs", type=int, default=20, help="pairs of timed passes over the texts")
    parser.add_argument("--texts", type=int, default=512, help="texts in each timed pass")
    parser.add_argument("--store", type=Path, default=STORE)
    return parser.parse_args()


def measured(asked: argparse.Namespace, folder: Path, test: Rows) -> dict[str, Any]:
    """Train everything and return what it reached."""
    common = settings_of(asked, folder)
    teacher = asked.teacher or train(folder / "teacher", [*common, "training.seed=0"])
    right_of_teacher = right(teacher, test)
    found: dict[str, Any] = {}
    for way in asked.ways:
        runs, rights = [], []
        for seed in range(asked.seeds):
            words = [*common, f"training.seed={seed}", f"model.path={teacher}/model", f"model.keep_layers={asked.keep}", *WAYS[way]]
            words += [f"distill.teacher={teacher}"] if WAYS[way] else []
            run = train(folder / f"{way.replace(' ', '-')}-{seed}", words)
            rights.append(right(run, test))
            runs.append({"seed": seed, **facts_of(run)})
            print(way, json.dumps(runs[-1]), flush=True)
        found[way] = {"runs": runs, "kept": kept(rights, right_of_teacher), "speed": speed(run, teacher, test, asked)}
    share = {
        "layers": len(asked.keep),
        "keep": asked.keep,
        "rows": asked.rows or "all",
        "epochs": asked.epochs or "auto",
        "seeds": asked.seeds,
    }
    return {**share, "teacher": facts_of(teacher), "students": found}


def settings_of(asked: argparse.Namespace, folder: Path) -> list[str]:
    """Return the words that every run shares; fewer rows are drawn once."""
    words = ["sst2", "track.trackers=[]", "evaluate.baseline=false"]
    words += [] if asked.epochs is None else [f"training.epochs={asked.epochs}"]
    if asked.rows is not None:
        rows = rows_of(Path(os.environ["LUTHIER_DATA"]) / "sst2" / "train.tsv")
        chosen = random.Random(0).sample(rows, asked.rows)
        few = folder / "train.tsv"
        few.write_text("".join(f"{text}\t{label}\n" for text, label in chosen), encoding="utf-8")
        words.append(f"data.train={few}")
    return words


def train(output: Path, words: list[str]) -> Path:
    """Train a run in a process of its own."""
    done = subprocess.run([*COMMAND, "train", *words, f"output={output}", "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr[-2000:])
    return output


def facts_of(run: Path) -> dict[str, Any]:
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return {"accuracy": metrics["scores"]["test"]["accuracy"], "steps": metrics["steps"], "training_seconds": metrics["training_seconds"]}


def rows_of(path: Path) -> Rows:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(text, label) for text, _, label in (line.rpartition("\t") for line in lines)]


def right(run: Path, test: Rows) -> np.ndarray:
    """Return for each test row whether a run answers it right."""
    from luthier.serve.predictor import Predictor

    answers = Predictor.open(run).answer(text for text, _ in test)
    return np.array([str(answer.label) == label for answer, (_, label) in zip(answers, test, strict=True)])


def kept(students: list[np.ndarray], teacher: np.ndarray) -> dict[str, float]:
    """Return the mean share of the teacher's accuracy that students keep, with a bootstrap interval of 95 % over the rows."""
    right_SN, dice = np.stack(students), np.random.default_rng(0)
    rows_RN = dice.integers(0, len(teacher), (RESAMPLES, len(teacher)))
    shares_R = [float(right_SN[:, rows].mean() / teacher[rows].mean()) for rows in rows_RN]
    low, high = np.quantile(shares_R, [0.025, 0.975])
    return {"value": float(right_SN.mean() / teacher.mean()), "low": float(low), "high": float(high)}


def speed(student: Path, teacher: Path, test: Rows, asked: argparse.Namespace) -> dict[str, float]:
    """Return how many times faster the student answers the same texts: median, least and most of pairs in turns."""
    from luthier.serve.predictor import Predictor

    texts = [text for text, _ in test][: asked.texts]
    sides = [Predictor.open(student), Predictor.open(teacher)]
    for side in sides:
        side.outputs(texts)
    times: list[list[float]] = [[], []]
    for pair in range(asked.pairs):
        for place in (0, 1) if pair % 2 else (1, 0):
            started = time.perf_counter()
            sides[place].outputs(texts)
            times[place].append(time.perf_counter() - started)
    ratios = [slow / fast for fast, slow in zip(*times, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios), "seconds": statistics.median(times[0])}


def table(stored: dict[str, Any]) -> str:
    """Return what was measured as a table in Markdown."""
    lines = []
    for recipe, facts in stored.items():
        one = facts["teacher"]["accuracy"]
        lines += [
            f"`{recipe}`, {facts['rows']} rows, epochs {facts['epochs']}, {facts['seeds']} seeds, {facts['hardware']}, "
            f"{facts['measured']}. "
            f"The teacher's accuracy is {one['value']:.4f} ({one['low']:.4f} to {one['high']:.4f}). "
            f"Students begin with its layers {', '.join(map(str, facts['keep']))}. "
            f"Asked: {KEPT:.0%} of its accuracy at {FASTER} times the speed.",
            "",
            f"| student of {facts['layers']} layers | accuracy, mean of seeds | share kept (interval) | "
            "times faster: median (least to most) |",
            "|---|---|---|---|",
        ]
        for way, found in facts["students"].items():
            mean = statistics.fmean(run["accuracy"]["value"] for run in found["runs"])
            share, pace = found["kept"], found["speed"]
            lines.append(
                f"| {way} | {mean:.4f} | {share['value']:.1%} ({share['low']:.1%} to {share['high']:.1%}) | "
                f"{pace['median']:.2f} ({pace['min']:.2f} to {pace['max']:.2f}) |"
            )
        lines.append("")
    return "\n".join(lines)


def write_page(store: Path) -> None:
    """Put the table into the guide."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text("".join([before, START, "\n", table(json.loads(store.read_text(encoding="utf-8"))), END, after]), encoding="utf-8")


if __name__ == "__main__":
    main()
