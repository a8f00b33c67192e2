"""Run `luthier train` and print what its run folder says of its speed and score.

    python bench/ours/train.py --unit rows --out FOLDER [--short] -- sst2 training.epochs=3

Rows (or real tokens) per second of the steps alone, evaluation and saving left out; of a short run the first three steps, too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

WARM_UP = 3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--unit", choices=["rows", "tokens"], required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("words", nargs="+")
    asked = parser.parse_args()
    metrics = train(asked.words, asked.out)
    print(json.dumps(reading(asked.out, metrics, unit=asked.unit, short=asked.short)))


def train(words: list[str], out: Path) -> dict[str, Any]:
    """Train and return the object of metrics.json.

    Raises:
        SystemExit: with what the command said last, if it failed.
    """
    command = [sys.executable, "-m", "luthier", "train", *words, f"output={out}", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        sys.exit("; ".join(said[-3:]))
    return json.loads(done.stdout.splitlines()[-1])


def reading(run: Path, metrics: dict[str, Any], *, unit: str, short: bool) -> dict[str, Any]:
    """Return the reading of a finished run.

    Args:
        run: The run folder.
        metrics: Its metrics.json.
        unit: rows or tokens.
        short: Whether the run was cut short: its first three steps are left out then.
    """
    ticks = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines() if '"step"' in line]
    ticks = [tick for tick in ticks if "seconds" in tick]
    key = "tokens" if unit == "tokens" else "samples"
    facts: dict[str, Any] = {"seconds": metrics["training_seconds"], "steps": len(ticks)}
    if unit == "tokens":
        losses = [tick["loss"] for tick in ticks[-10:]]
        facts["loss"] = sum(losses) / len(losses)
    if short:
        seconds = sum(tick["seconds"] for tick in ticks[WARM_UP:])
        return {"value": (ticks[-1][key] - ticks[WARM_UP - 1][key]) / seconds, **facts}
    score = metrics["scores"].get("test", {}).get("accuracy", {}).get("value")
    return {"value": ticks[-1][key] / metrics["training_seconds"], "score": score, **facts}


if __name__ == "__main__":
    main()
