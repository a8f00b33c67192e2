"""Tiny rows of span-extraction: the words of the kind that the prompt names, none, one or two of them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import tiny

CHANGES = {
    **{"training.max_steps": 80, "data.max_length": 24, "data.window_stride": 4},
    "task": {"type": "span-extraction", "threshold": 0.3},
}
NUM_ROWS = 120
PROMPTS = {"card": "payment", "password": "login"}


def write(folder: Path, *, num_rows: int = NUM_ROWS) -> Path:
    """Write the rows; returns the file."""
    dice, rows = random.Random(0), {}
    while len(rows) < num_rows:
        prompt = dice.choice(list(PROMPTS))
        kinds = [tiny.WORDS_BY_CLASS["payment"], tiny.WORDS_BY_CLASS["login"], tiny.FILLERS]
        words = [dice.choice(kinds[dice.choice([0, 1, 2, 2, 2])]) for _ in range(dice.choice([6, 9, 26]))]
        spans, place = [], 0
        for word in words:
            if word in tiny.WORDS_BY_CLASS[PROMPTS[prompt]]:
                spans.append({"text": word, "start": place, "end": place + len(word)})
            place += len(word) + 1
        rows[" ".join(words)] = {"content": " ".join(words), "prompt": prompt, "result_list": spans}
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows.values()), encoding="utf-8")
    return path
