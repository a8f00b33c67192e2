"""Tiny rows of fill-mask: words that come in a fixed order, so that a hidden one follows from its neighbours."""

from __future__ import annotations

import random
from pathlib import Path

import tiny

WORDS = [word for words in tiny.WORDS_BY_CLASS.values() for word in words]
CHANGES = {"training.max_steps": 150, "optim.learning_rate": 3e-3}
NUM_ROWS = 160


def write(folder: Path, *, num_rows: int = NUM_ROWS) -> Path:
    """Write the rows, with labels that nobody looks at; returns the file."""
    dice, rows = random.Random(0), dict[str, str]()
    while len(rows) < num_rows:
        start, length = dice.randrange(len(WORDS)), dice.randint(8, 16)
        words = [WORDS[(start + place) % len(WORDS)] for place in range(length) if dice.random() < 0.95]
        rows.setdefault(" ".join(words), str(len(rows)))
    return tiny.write_rows(folder / "rows.csv", list(rows.items()))
