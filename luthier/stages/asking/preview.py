"""What a training would read: rows as the model gets them, and counts of what is used, cut and left out."""

from __future__ import annotations

from typing import Any

import numpy as np

from luthier.core import files
from luthier.data.prepared import Prepared, Row
from luthier.recipe import Recipe
from luthier.stages.results.written import chosen_rows
from luthier.tasks.task import Work
from luthier.tasks.text.unlearnt import UNLEARNT

MOST_NUMBERS = 20
"""Row numbers that are listed for each reason."""


def preview_rows(recipe: Recipe, prepared: Prepared, *, num: int) -> dict[str, Any]:
    """Return some training rows as the model gets them in the first epoch, and what became of all rows; no weights are loaded.

    Args:
        recipe: The recipe.
        prepared: Its encoded rows.
        num: How many rows are shown, evenly spread.

    Returns:
        The object that `luthier data preview --json` prints.
    """
    if prepared.members:
        return {"tasks": {name: preview_rows(recipe.of_task(name), member, num=num) for name, member in prepared.members.items()}}
    work = recipe.task.start(prepared, data=recipe.data, loss=recipe.loss)
    split = prepared.splits["train"]
    place = {int(id_): index for index, id_ in enumerate(split.ids_N)}
    rows = [_row(work, prepared, row, place[row.id], recipe.training.seed) for row in chosen_rows(split, num)]
    left_out = _left_out(prepared)
    return {
        "task": recipe.task.registered_name,
        "max_length": prepared.max_length,
        "splits": _splits(prepared),
        "left_out": left_out,
        "unlearnt": sum(one["rows"] for one in left_out if one["reason"] == UNLEARNT),
        "notes": prepared.facts.get("notes", []),
        "rows": rows,
    }


def _row(work: Work, prepared: Prepared, row: Row, index: int, seed: int) -> dict[str, Any]:
    """Return one row as `Work.shown` gives it, drawn as the first epoch draws it."""
    drawn = work.item(row, np.random.default_rng((seed, 0, row.id))) if work.draws else row
    pieces, target = work.shown(drawn, prepared)
    number = prepared.splits["train"].column("row", [index])
    return {
        "id": row.id,
        "row": None if number is None else number[0],
        "windows": len(drawn.windows),
        "tokens": sum(map(len, drawn.windows)),
        "learnt": sum(piece.learnt for piece in pieces),
        "pieces": [{"text": piece.text, "learnt": piece.learnt} for piece in pieces],
        "target": target,
    }


def _splits(prepared: Prepared) -> dict[str, Any]:
    """Return rows, tokens and rows that were cut, of each split."""
    cut = prepared.facts["tokens"]["truncated"]
    return {
        name: {"rows": len(split), "tokens": int(split.num_tokens_N.sum()), "cut": int(cut.get(name, 0))}
        for name, split in prepared.splits.items()
    }


def _left_out(prepared: Prepared) -> list[dict[str, Any]]:
    """Return how many rows are left out for each reason, the most first, and the numbers of the first of them."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in files.read_json_lines(prepared.quarantine):
        found.setdefault((line["file"], line["reason"].partition(" (")[0]), []).append(line)
    counted = [
        {
            "file": file,
            "reason": reason,
            "rows": len(lines),
            "first": [line["row"] for line in lines[:MOST_NUMBERS]],
            "example": lines[0]["reason"],
        }
        for (file, reason), lines in found.items()
    ]
    return sorted(counted, key=lambda one: -one["rows"])
