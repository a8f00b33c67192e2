"""Tiny rows of sentence-similarity: pairs of texts, and how many of their words are of the same kind."""

from __future__ import annotations

import json
import random
from pathlib import Path

import tiny

CHANGES = {"training.max_steps": 60, "training.batch_size": 16}
SCORES = ("spearman", "pearson")
NUM_ROWS = 120


def write(folder: Path, *, num_rows: int = NUM_ROWS) -> Path:
    """Write the rows; returns the file."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in scored_rows(num_rows)), encoding="utf-8")
    return path


def scored_rows(num_rows: int = NUM_ROWS) -> list[dict[str, object]]:
    """Pairs with scores: 5 where both texts are about one thing, 0 where they are not, 2.5 where the second is about two."""
    dice, rows = random.Random(0), {}
    while len(rows) < num_rows:
        score = dice.choice([0.0, 2.5, 5.0])
        about, other = dice.sample(sorted(tiny.WORDS_BY_CLASS), 2)
        kinds = {0.0: [other, other], 2.5: [about, other], 5.0: [about, about]}[score]
        first = _text(dice, [about, about])
        rows[first] = {"sentence1": first, "sentence2": _text(dice, kinds), "score": score}
    return list(rows.values())


def related_rows(num_rows: int = NUM_ROWS, *, negatives: bool = False) -> list[dict[str, object]]:
    """Pairs that belong together by their words, and perhaps a text about something else."""
    dice, rows = random.Random(1), {}
    while len(rows) < num_rows:
        about, other = dice.sample(sorted(tiny.WORDS_BY_CLASS), 2)
        shared = dice.sample(tiny.WORDS_BY_CLASS[about], 3)
        anchor, positive = (" ".join(dice.sample([*shared, *dice.sample(tiny.FILLERS, 2)], 5)) for _ in range(2))
        rows[anchor] = {"anchor": anchor, "positive": positive, **({"negative": _text(dice, [other, other])} if negatives else {})}
    return list(rows.values())


def _text(dice: random.Random, kinds: list[str]) -> str:
    words = [word for kind in kinds for word in dice.sample(tiny.WORDS_BY_CLASS[kind], 2)] + dice.choices(tiny.FILLERS, k=2)
    dice.shuffle(words)
    return " ".join(words)
