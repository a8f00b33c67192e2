"""Tiny rows of intent-and-slots: the first word tells the intent, words of a class are slots of its name."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import tiny

CHANGES: dict[str, Any] = {"training.max_steps": 40}
NUM_ROWS = 120
INTENTS = {"tell": "ask", "would": "wish", "help": "complain"}


def rows(num_rows: int = NUM_ROWS, *, seed: int = 0) -> list[dict[str, Any]]:
    """Words, tags and intents; some slots have two words."""
    dice, found = random.Random(seed), {}
    while len(found) < num_rows:
        first = dice.choice(sorted(INTENTS))
        words, tags = [first, *dice.choices(tiny.FILLERS[:20], k=dice.randint(1, 3))], []
        tags += ["O"] * len(words)
        for name in dice.sample(sorted(tiny.WORDS_BY_CLASS), dice.randint(1, 2)):
            length = dice.randint(1, 2)
            words += dice.sample(tiny.WORDS_BY_CLASS[name], length)
            tags += [f"B-{name}", f"I-{name}"][:length]
        found[" ".join(words)] = {"tokens": words, "tags": tags, "intent": INTENTS[first]}
    return list(found.values())


def write(folder: Path, *, num_rows: int = NUM_ROWS) -> Path:
    """Write the rows; returns the file."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(num_rows)), encoding="utf-8")
    return path


def write_folder(folder: Path, found: list[dict[str, Any]]) -> Path:
    """Write rows as seq.in, seq.out and label; returns the folder."""
    folder.mkdir(parents=True)
    columns = {"seq.in": [" ".join(row["tokens"]) for row in found], "seq.out": [" ".join(row["tags"]) + " " for row in found]}
    for name, lines in {**columns, "label": [row["intent"] for row in found]}.items():
        (folder / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return folder
