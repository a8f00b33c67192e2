"""Tiny rows of question-answering: the words about login in a text about something else, or none; some texts are read in windows."""

from __future__ import annotations

import json
import random
from pathlib import Path

import tiny

CHANGES = {"training.max_steps": 80, "data.max_length": 32, "data.window_stride": 8, "task": {"type": "question-answering", "n_best": 5}}
NUM_ROWS = 120


def write(folder: Path, *, num_rows: int = NUM_ROWS) -> Path:
    """Write the rows; returns the file."""
    dice, rows = random.Random(0), {}
    while len(rows) < num_rows:
        words = dice.choices(tiny.FILLERS, k=dice.choice([8, 12, 40]))
        answer = " ".join(dice.sample(tiny.WORDS_BY_CLASS["login"], 2)) if len(rows) % 4 else None
        place = dice.randrange(len(words))
        before, after = " ".join(words[:place]), " ".join(words[place:])
        context = " ".join(part for part in (before, answer, after) if part)
        start = len(before) + 1 if before else 0
        answers = {"text": [answer], "answer_start": [start]} if answer else {"text": [], "answer_start": []}
        rows[context] = {"question": "what about the screen", "context": context, "answers": answers}
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows.values()), encoding="utf-8")
    return path
