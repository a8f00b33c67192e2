"""Tiny rows of relation-extraction: the classes of the two entities tell the relation, and the direction."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import tiny

CHANGES: dict[str, Any] = {
    "task": {"type": "relation-extraction", "markers": "words"},  # an adapter leaves the vocabulary as it is
    "model.extend_vocabulary": False,
    "training.max_steps": 60,
}
NUM_ROWS = 120
PAIRS = [("delivery", "payment", "Cost(e1,e2)"), ("payment", "delivery", "Cost(e2,e1)"), ("login", "login", "Other")]


def rows(num_rows: int = NUM_ROWS, *, seed: int = 0) -> list[tuple[str, str]]:
    """Marked texts and their relations."""
    dice, found = random.Random(seed), {}
    while len(found) < num_rows:
        first, second, relation = PAIRS[len(found) % len(PAIRS)]
        entities = [dice.choice(tiny.WORDS_BY_CLASS[name]) for name in (first, second)]
        some = [" ".join(dice.choices(tiny.FILLERS, k=dice.randint(1, 2))) for _ in range(3)]
        found[f"{some[0]} <e1>{entities[0]}</e1> {some[1]} <e2>{entities[1]}</e2> {some[2]}"] = relation
    return list(found.items())


def write(folder: Path, *, num_rows: int = NUM_ROWS) -> Path:
    """Write the rows; returns the file."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text, "relation": label}) + "\n" for text, label in rows(num_rows)), encoding="utf-8")
    return path


def write_semeval(path: Path, found: list[tuple[str, str]]) -> Path:
    """Write rows as SemEval-2010 task 8 does; returns the file."""
    blocks = [f'{number}\t"{text}"\r\n{label}\r\nComment: none\r\n\r\n' for number, (text, label) in enumerate(found, 1)]
    path.write_bytes("".join(blocks).encode())
    return path
