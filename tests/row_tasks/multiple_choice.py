"""Tiny rows of multiple-choice: two to four choices, of which the one about logins is right."""

from __future__ import annotations

import json
import random
from pathlib import Path

import tiny

CHANGES = {"training.max_steps": 60}
NUM_ROWS = 120


def write(folder: Path, *, num_rows: int = NUM_ROWS) -> Path:
    """Write the rows; returns the file."""
    dice, rows = random.Random(0), []
    for number in range(num_rows):
        right = " ".join(dice.sample(tiny.WORDS_BY_CLASS["login"], 2))
        others = [" ".join(words) for words in zip(*[iter(dice.sample(tiny.FILLERS, 6))] * 2, strict=True)]
        choices = [right, *others[: 1 + number % 3]]
        dice.shuffle(choices)
        text = " ".join([*dice.choices(tiny.FILLERS, k=5), str(number)])
        rows.append({"question": text, "choices": choices, "answer": choices.index(right)})
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
