"""The table of methods: `luthier sweep compare-methods`, or a part of it, kept in docs/methods.json for docs/results.md.

    LUTHIER_DATA=... python bench/methods.py [--folder sweeps/compare-methods] [--seeds 0 --recipes sst2 ...]
    python bench/methods.py --read --folder FOLDER        what a folder holds, nothing is trained

Finished trainings in the folder are taken as they are; other words go to `luthier sweep` as they stand.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from results import keep_in, luthier, write_page

from luthier.core import yaml

ROOT = Path(__file__).parents[1]
STORE = ROOT / "docs" / "methods.json"
KEPT = ("recipe", "variant", "metric", "score", "trained_share", "trained_parameters", "training_seconds", "peak_memory_bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the methods of compare-methods and keep their table.")
    parser.add_argument("--folder", type=Path, default=ROOT / "sweeps" / "compare-methods", help="folder of the sweep")
    parser.add_argument("--note", default="", help="a sentence for the page on how the times came about")
    parser.add_argument("--read", action="store_true", help="take what the folder holds, and train nothing")
    asked, words = parser.parse_known_args()
    if not asked.read:
        luthier("sweep", "compare-methods", "--output", str(asked.folder), *words)
    keep_in(STORE, "compare-methods", table_of(asked.folder) | {"note": asked.note})
    write_page()


def table_of(folder: Path) -> dict[str, Any]:
    """Return what a comparison found: its finished rows, and what its trainings were changed by."""
    found = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    rows = []
    for row in found["rows"]:
        seeds = [run["seed"] for run in row["runs"] if run["state"] == "finished"]
        if seeds:
            rows.append({key: row[key] for key in KEPT} | {"seeds": seeds, "settings": settings_of(Path(row["runs"][0]["run"]))})
    return {"rows": rows, "workers": found["workers"]}


def settings_of(run: Path) -> dict[str, Any]:
    """Return the epochs and the batch of a training."""
    training = yaml.load_file(run / "recipe.yaml")["training"]
    return {key: training[key] for key in ("epochs", "batch_size")}


if __name__ == "__main__":
    main()
