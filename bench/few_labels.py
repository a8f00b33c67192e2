"""Ten labels for each intent of BANKING77: what regularisers and soups bring beside plain fine-tuning.

    LUTHIER_DATA=... python bench/few_labels.py [--draws 3] [--labels 10] [--ways plain r-drop freelb contrast mixup soup] [--folder FOLDER]
    LUTHIER_DATA=... python bench/few_labels.py --ways plain warm:loss.r_drop=2,training.epochs=20       # a way of your own

Each draw takes other training rows, the same for every way; the test rows are all of the official test set. A soup is the mean of the
weights of three plain trainings of a draw, with other seeds. Readings go to docs/few-labels.json and docs/few-labels.md; trainings in the
folder that are finished are taken as they are. Another number of draws or labels replaces the readings.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from results import keep_in, luthier
from robustness import interval, points

ROOT = Path(__file__).parents[1]
STORE, PAGE = ROOT / "docs" / "few-labels.json", ROOT / "docs" / "few-labels.md"
PLAIN, SOUP = "plain", "soup"
IN_A_SOUP = 3
WAYS: dict[str, tuple[str, ...]] = {
    PLAIN: (),
    "r-drop": ("loss.r_drop=1",),
    "freelb": ("training.step_rule=freelb",),
    "contrast": ("loss.contrast=supervised-contrastive",),
    "mixup": ("loss.mixup.at=head",),
    SOUP: (),
}
RESAMPLES = 2000
HEAD = """\
# Few labels

Printed by `python bench/few_labels.py` from docs/few-labels.json; do not edit it. Test accuracy after fine-tuning all-MiniLM-L6-v2 on a few
rows of each of the 77 intents of BANKING77, all else as in the preset `banking77`; means over draws of the rows. Intervals of 95 %:
bootstrap over the test rows, of the mean over the draws; those of the difference are paired.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what regularisers and soups bring where labels are few.")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--labels", type=int, default=10, help="training rows of each intent (10)")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), help=f"among {', '.join(WAYS)}, or name:key=value,key=value of your own")
    parser.add_argument("--folder", type=Path, help="where the runs are kept; none: a folder that is removed")
    asked = parser.parse_args()
    ways = dict(map(way_of, asked.ways))
    with tempfile.TemporaryDirectory() as aside:
        folder = asked.folder or Path(aside)
        folder.mkdir(parents=True, exist_ok=True)
        right = {
            name: [right_rows(name, changes, draw, asked.labels, folder) for draw in range(asked.draws)] for name, changes in ways.items()
        }
    facts = {
        "draws": asked.draws,
        "labels": asked.labels,
        "ways": figures({name: np.mean(found, 0) for name, found in right.items()}, ways),
    }
    keep_in(STORE, f"banking77, {asked.labels} labels, {asked.draws} draws", facts, merge="ways")
    PAGE.write_text(page(json.loads(STORE.read_text(encoding="utf-8"))), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


def way_of(written: str) -> tuple[str, tuple[str, ...]]:
    """Return the name of a way and the keys that make it."""
    name, _, keys = written.partition(":")
    if not keys and name not in WAYS:
        raise SystemExit(f"--ways: unknown way '{name}'; known: {', '.join(WAYS)}, or name:key=value,key=value")
    return name, tuple(keys.split(",")) if keys else WAYS[name]


def right_rows(name: str, changes: tuple[str, ...], draw: int, labels: int, folder: Path) -> np.ndarray:
    """Return which test rows are answered rightly after a training on one draw, `(N,)`."""
    from luthier import flow

    rows = drawn(draw, labels, folder)
    if name == SOUP:
        plain = [trained(f"{PLAIN}-{labels}-{draw}-{seed}", (), rows, seed, folder) for seed in range(IN_A_SOUP)]
        model = folder / f"{SOUP}-{labels}-{draw}"
        if not model.exists():
            luthier("soup", *map(str, plain), "--how", "uniform", "--output", str(model))
    else:
        model = trained(f"{name}-{labels}-{draw}-0", changes, rows, 0, folder)
    texts, intents = columns(Path(os.environ["LUTHIER_DATA"]) / "banking77" / "test.csv")
    right = np.array([answer.label == intent for answer, intent in zip(flow.predict(model, texts), intents, strict=True)], float)
    print(f"{name}, draw {draw}: {right.mean():.4f}", flush=True)
    return right


def drawn(draw: int, labels: int, folder: Path) -> Path:
    """Return a file with some training rows of each intent."""
    file = folder / f"rows-{labels}-{draw}.csv"
    if not file.exists():
        texts, intents = columns(Path(os.environ["LUTHIER_DATA"]) / "banking77" / "train.csv")
        rng, places = random.Random(draw), list(range(len(texts)))
        rng.shuffle(places)
        taken: dict[str, list[int]] = {}
        for place in places:
            if len(taken.setdefault(intents[place], [])) < labels:
                taken[intents[place]].append(place)
        with file.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["text", "category"])
            writer.writerows((texts[place], intent) for intent in sorted(taken) for place in taken[intent])
    return file


def columns(file: Path) -> tuple[list[str], list[str]]:
    """Return the texts and the intents of a file."""
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [row["text"] for row in rows], [row["category"] for row in rows]


def trained(name: str, changes: tuple[str, ...], rows: Path, seed: int, folder: Path) -> Path:
    """Return the finished run of a way."""
    run = folder / name
    where = (f"data.train={rows}", f"training.seed={seed}", "evaluate.resamples=100", "evaluate.baseline=false", f"output={run}")
    luthier("train", "banking77", *where, *changes, "--resume", "auto")
    return run


def figures(right: dict[str, np.ndarray], ways: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """Return accuracy and difference from plain training, with bootstrap intervals over the rows."""
    num_rows = len(right[PLAIN])
    rows_RN = np.random.default_rng(0).integers(num_rows, size=(RESAMPLES, num_rows))
    found: dict[str, Any] = {}
    for name, right_N in right.items():
        found[name] = {"changes": list(ways[name]), "accuracy": interval(right_N.mean(), right_N[rows_RN].mean(1))}
        if name != PLAIN:
            more_N = right_N - right[PLAIN]
            found[name]["more"] = interval(more_N.mean(), more_N[rows_RN].mean(1))
    return found


def page(stored: dict[str, Any]) -> str:
    """Return docs/few-labels.md."""
    lines = [HEAD]
    for facts in stored.values():
        where = f"{facts['hardware']}, torch {facts['packages']['torch']}, {facts['measured']}"
        lines += [f"## {facts['labels']} rows of each intent, {facts['draws']} draw(s)", "", where, ""]
        lines += ["| way | accuracy | more than plain, points |", "|---|---|---|"]
        for name, found in facts["ways"].items():
            keys = f" (`{' '.join(found['changes'])}`)" if found["changes"] else ""
            lines.append(f"| {name}{keys} | {points(found['accuracy'])} | {points(found['more']) if 'more' in found else ''} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
