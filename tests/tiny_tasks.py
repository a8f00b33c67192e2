"""Recipes of two tiny tasks on the tiny model: one with three classes, one with two."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tiny


def write_two(folder: Path, *, subjects: int = 120, moods: int = 60) -> tuple[Path, Path]:
    """Write the rows of both tasks; the second has the same words, and two of the classes."""
    first = tiny.write_rows(folder / "subjects.csv", tiny.tiny_rows(subjects))
    second = tiny.write_rows(folder / "money.csv", tiny.tiny_rows(moods, seed=7, classes=("payment", "login")))
    return first, second


def two_tasks(model: Path, folder: Path, changes: Mapping[str, Any] | None = None, name: str = "run") -> dict[str, Any]:
    """A recipe of two tasks, with changes by dotted key."""
    first, second = write_two(folder)
    recipe = tiny.tiny_recipe(model, first, folder / name, changes)
    del recipe["task"], recipe["data"]
    split = {"validation": 0.2, "test": 0.25}
    recipe["tasks"] = [
        {"name": "subject", "data": {"train": str(first), "split": split}},
        {"name": "money", "data": {"train": str(second), "split": split}},
    ]
    return recipe
