"""Rows for a plan where there are none yet: as many and as long as one says."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

from luthier.data.prepared import Prepared
from luthier.recipe import Recipe

ROWS, TOKENS = 10_000, 128
MARKS = 2  # tokens that stand around a text


def assumed_rows(recipe: Recipe, rows: int, tokens: int) -> Prepared:
    """Return made-up encoded rows of two classes, all of one length.

    Args:
        recipe: Whose task and tokenizer they are for.
        rows: How many.
        tokens: Tokens in each, about.
    """
    with tempfile.TemporaryDirectory(prefix="luthier-plan-") as folder:
        path = Path(folder, "assumed.csv")
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("text", "label"))
            for number in range(rows):
                figures = " ".join(f"{number:06d}")
                writer.writerow((f"{figures} {'a ' * max(0, tokens - MARKS - 6)}".strip(), f"class {number % 2}"))
        data = {"train": str(path), "validation": None, "test": None, "text": "text", "label": "label"}
        split = recipe.data.split.model_copy(update={"validation": 0.0, "test": 0.0})
        return recipe.task.prepare(recipe.data.model_copy(update={**data, "split": split, "cache": False}), recipe.model)
