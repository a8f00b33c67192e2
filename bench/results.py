"""Measure the figures of docs/results.md on this machine, and write that page.

    LUTHIER_DATA=... python bench/results.py scores speed choices page

Each part keeps what it measured in docs/results.json, with the hardware and the time; `page` writes docs/results.md from it.
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.machine import environment

ROOT = Path(__file__).parents[1]
STORE = ROOT / "docs" / "results.json"
PAGE = ROOT / "docs" / "results.md"
SPEED_STORE = ROOT / "docs" / "speed.json"
TUNING = [ROOT / "docs" / f"{name}.json" for name in ("methods", "few-labels", "robustness", "distillation", "forgetting")]
COMMAND = [sys.executable, "-m", "luthier"]
SCORED = {"sst2": 3, "banking77": 1, "zh-hotel-reviews": 1}


def main(parts: list[str]) -> None:
    """Run the named parts: scores (or one recipe's name), speed, page."""
    for part in parts or ["scores", "speed", "choices", "page"]:
        if part == "page":
            write_page()
        elif part == "speed":
            keep("speed", {name: measure() for name, measure in SPEEDS.items()})
        elif part == "choices":
            keep("padding", {"recipes": padding()})
            keep("precision", precision())
        elif part == "scores":
            for name in SCORED:
                keep(name, score(name))
        else:
            keep(part, score(part))


def keep(name: str, facts: dict[str, Any]) -> None:
    """Store what was measured, with hardware and time."""
    keep_in(STORE, name, facts)
    print(json.dumps({name: facts}, ensure_ascii=False), flush=True)


def keep_in(store: Path, name: str, facts: dict[str, Any], *, merge: str | None = None) -> None:
    """Store what was measured in a file, with hardware and time; `merge` names a table of it that keeps its other entries."""
    stored = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    machine = environment()
    hardware = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB"
    packages = {package: machine["packages"][package] for package in ("torch", "transformers")}
    if merge and name in stored:
        facts = facts | {merge: stored[name][merge] | facts[merge]}
    stored[name] = {"hardware": hardware, "packages": packages, "measured": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), **facts}
    store.write_text(json.dumps(stored, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def score(name: str) -> dict[str, Any]:
    """Train a recipe with each seed and return its test scores, beside TF-IDF with logistic regression on the same rows.

    Seeds that were measured before are taken from results.json; remove them there to measure again.
    """
    done = json.loads(STORE.read_text(encoding="utf-8")).get(name, {}).get("runs", []) if STORE.exists() else []
    runs = [run for run in done if run["seed"] < SCORED[name]]
    for seed in sorted(set(range(SCORED[name])) - {run["seed"] for run in runs}):
        with tempfile.TemporaryDirectory() as folder:
            output = luthier("train", name, f"output={folder}/run", f"training.seed={seed}")
            rate = rate_of(Path(folder, "run", "recipe.yaml").read_text(encoding="utf-8"))
        measured = {key: output[key] for key in ("seconds", "training_seconds", "samples_per_second", "epochs")}
        runs.append({"seed": seed, **measured, **rate, **pick(output)})
        keep(name, {"runs": runs})
    mean = statistics.fmean(run["accuracy"]["value"] for run in runs)
    return {"runs": runs, "mean_accuracy": mean, "tf_idf": tf_idf(name)}


def pick(output: dict[str, Any]) -> dict[str, Any]:
    """Return the two headline scores of the test rows."""
    return {key: output["scores"]["test"][key] for key in ("accuracy", "f1_macro")}


def rate_of(recipe: str) -> dict[str, float]:
    """Return the rates that were used."""
    from luthier.core.yaml import load

    optim = load(recipe, where="recipe.yaml")["optim"]
    return {"learning_rate": optim["learning_rate"], "head_learning_rate": optim["head_learning_rate"]}


def tf_idf(name: str) -> dict[str, Any]:
    """Return the accuracy of TF-IDF with logistic regression (C=10) on the recipe's own training and test rows."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    from luthier.data.rows import load_rows
    from luthier.metrics.answered import Answered
    from luthier.metrics.intervals import scores
    from luthier.recipe import resolve

    rows = load_rows(resolve(name).data)
    train, test = rows.splits["train"], rows.splits["test"]
    words = {"analyzer": "char", "ngram_range": (1, 3)} if name.startswith("zh") else {"ngram_range": (1, 2)}
    vectors = TfidfVectorizer(**words, sublinear_tf=True)
    fitted = LogisticRegression(C=10, max_iter=1000).fit(vectors.fit_transform(train["text"].to_pylist()), train["label"].to_pylist())
    labels = tuple(fitted.classes_)
    truth = np.array([labels.index(label) for label in test["label"].to_pylist()])
    answered = Answered(test["id"].to_numpy(), fitted.predict_proba(vectors.transform(test["text"].to_pylist())), truth, labels)
    return {key: one.as_dict() for key, one in scores(answered, keys=["accuracy", "f1_macro"]).items()}


def luthier(*arguments: str, cache: str | None = None) -> dict[str, Any]:
    """Run a command with --json and return its object."""
    environ = os.environ | ({"LUTHIER_CACHE": cache} if cache else {})
    done = subprocess.run([*COMMAND, *arguments, "--json"], capture_output=True, text=True, env=environ, check=False)
    if done.returncode:
        raise SystemExit(f"luthier {' '.join(arguments)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def start_up() -> dict[str, float]:
    """Median seconds of `luthier --help` and `luthier version`, whole process."""
    return {verb: median_seconds([*COMMAND, verb], 11) for verb in ("--help", "version")}


def check_10_000() -> dict[str, float]:
    """Median seconds of `luthier check` on a CSV of 10,000 rows, nothing cached."""
    with tempfile.TemporaryDirectory() as folder:
        rows = write_rows(Path(folder, "rows.csv"), 10_000)
        command = [*COMMAND, "check", "--data", str(rows), "--text", "text", "--label", "label", "data.cache=false"]
        return {"seconds": median_seconds(command, 3)}


def data_stage() -> dict[str, float]:
    """Rows per second of reading, cleaning, splitting and encoding 100,000 rows; seconds from the cache; largest memory."""
    code = (
        "import sys, time, json, resource\n"
        "from luthier.recipe import resolve\n"
        "from luthier.flow import prepare\n"
        "recipe = resolve({'data': {'train': sys.argv[1], 'text': 'text', 'label': 'label'}})\n"
        "import luthier.tasks.text.preparation, transformers, pyarrow\n"
        "from transformers import AutoTokenizer\n"
        "times = []\n"
        "for _ in range(2):\n"
        "    started = time.perf_counter(); prepared = prepare(recipe); times.append(time.perf_counter() - started)\n"
        "assert prepared.from_cache\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "print(json.dumps({'first': times[0], 'cached': times[1], 'peak_mib': peak}))\n"
    )
    found = []
    with tempfile.TemporaryDirectory() as folder:
        rows = write_rows(Path(folder, "rows.csv"), 100_000)
        for number in range(3):
            environ = os.environ | {"LUTHIER_CACHE": f"{folder}/cache-{number}"}
            done = subprocess.run([sys.executable, "-c", code, str(rows)], capture_output=True, text=True, env=environ, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    middle = {key: statistics.median(one[key] for one in found) for key in found[0]}
    return {"rows_per_second": 100_000 / middle["first"], "cached_seconds": middle["cached"], "peak_mib": middle["peak_mib"]}


def predict_memory() -> dict[str, float]:
    """Largest memory of `luthier predict` over 100,000 and 1,000,000 rows with a two-layer model of width 32."""
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny import make_tiny_model

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        model = make_tiny_model(Path(folder, "model"))
        rows = write_rows(Path(folder, "train.csv"), 2_000)
        luthier(
            "train",
            "--data",
            str(rows),
            "--text",
            "text",
            "--label",
            "label",
            "--model",
            str(model),
            f"output={folder}/run",
            "training.max_steps=5",
        )
        for count in (100_000, 1_000_000):
            source = write_rows(Path(folder, "rows.csv"), count)
            command = [*COMMAND, "predict", f"{folder}/run", "--data", str(source), "--out", f"{folder}/answers.jsonl"]
            started = time.perf_counter()
            found[f"mib_{count}"] = peak_mib(command)
            found[f"seconds_{count}"] = time.perf_counter() - started
    return found


def peak_mib(command: list[str]) -> float:
    """Run a command and return the largest resident memory of its process, in MiB."""
    code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stderr=subprocess.DEVNULL); "
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def median_seconds(command: list[str], times: int) -> float:
    """Median wall time of a whole process."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def write_rows(path: Path, count: int) -> Path:
    """Write `count` rows: the training rows of sst2, repeated."""
    lines = Path(os.environ["LUTHIER_DATA"], "sst2", "train.tsv").read_text(encoding="utf-8").splitlines()
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        writer.writerows(lines[index % len(lines)].split("\t") for index in range(count))
    return path


def padding() -> dict[str, dict[str, float]]:
    """Share of the tokens of an epoch that is padding, with batches by length and without, per recipe."""
    from luthier.data.batches import pad_fraction, training_order
    from luthier.flow import prepare
    from luthier.recipe import resolve

    found = {}
    for name in (*SCORED, "support-intents"):
        lengths = prepare(resolve(name)).splits["train"].longest_window_N
        shares = {}
        for kind, by_length in (("shuffled", False), ("by_length", True)):
            order = training_order(lengths, batch_size=32, seed=0, epoch=0, by_length=by_length)
            shares[kind] = pad_fraction(lengths, order)
        found[name] = shares
    return found


def precision() -> dict[str, float]:
    """Rows per second of 40 steps on banking77 in float32 and in bfloat16, median of three interleaved runs each."""
    found: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(3):
        for kind, rates in found.items():
            with tempfile.TemporaryDirectory() as folder:
                settings = ("training.max_steps=40", "evaluate.baseline=false", "model.head.start=zero", "evaluate.resamples=100")
                output = luthier("train", "banking77", f"output={folder}/run", f"training.precision={kind}", *settings)
                rates.append(output["samples_per_second"])
    return {kind: statistics.median(rates) for kind, rates in found.items()}


SPEEDS = {"start_up": start_up, "check_10_000": check_10_000, "data_stage": data_stage, "predict_memory": predict_memory}


def page() -> str:
    """Return docs/results.md."""
    sys.path.insert(0, str(Path(__file__).parent))
    from results_page import render

    beside, *tuning = ({} if not one.exists() else json.loads(one.read_text(encoding="utf-8")) for one in (SPEED_STORE, *TUNING))
    return render(
        json.loads(STORE.read_text(encoding="utf-8")), beside, {one.stem: found for one, found in zip(TUNING, tuning, strict=True) if found}
    )


def write_page() -> None:
    """Write docs/results.md anew from what is stored."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
