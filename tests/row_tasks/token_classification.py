"""Tiny rows of token-classification: two kinds of spans among words that are in none; a word tells its tag."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import tiny

CHANGES = {"training.max_steps": 60}
NUM_ROWS = 120
KINDS = {"delivery": "DEL", "payment": "PAY"}


def tiny_rows(num_rows: int = NUM_ROWS) -> list[dict[str, Any]]:
    """Rows of words with tags in IOB2; no text occurs twice."""
    dice, rows = random.Random(0), {}
    while len(rows) < num_rows:
        words, tags = [], []
        for _ in range(dice.randint(1, 3)):
            fillers = dice.choices(tiny.FILLERS, k=dice.randint(1, 3))
            name, kind = dice.choice(sorted(KINDS.items()))
            known = tiny.WORDS_BY_CLASS[name]
            span = [dice.choice(known[:5]), dice.choice(known[5:])][: dice.randint(1, 2)]
            words += fillers + span
            tags += ["O"] * len(fillers) + [f"B-{kind}", f"I-{kind}"][: len(span)]
        rows[" ".join(words)] = {"tokens": words, "tags": tags}
    return list(rows.values())


def write(folder: Path, *, num_rows: int = NUM_ROWS) -> Path:
    """Write the rows; returns the file."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in tiny_rows(num_rows)), encoding="utf-8")
    return path
