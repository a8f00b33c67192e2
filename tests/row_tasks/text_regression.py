"""Tiny rows of text-regression: how many words of a kind a text has."""

from __future__ import annotations

import json
import random
from pathlib import Path

import tiny

CHANGES = {"training.max_steps": 60}
NUM_ROWS = 120


def write(folder: Path, *, num_rows: int = NUM_ROWS) -> Path:
    """Write the rows; returns the file."""
    dice, rows = random.Random(0), {}
    while len(rows) < num_rows:
        number = dice.randint(0, 5)
        words = dice.choices(tiny.WORDS_BY_CLASS["payment"], k=number) + dice.choices(tiny.FILLERS, k=7 - number)
        dice.shuffle(words)
        rows[" ".join(words)] = 1.5 * number
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text, "score": score}) + "\n" for text, score in rows.items()), encoding="utf-8")
    return path
