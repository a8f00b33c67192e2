"""Reference answers of tasks that answer each row with something of its own."""

from __future__ import annotations

from typing import Any

from luthier.core.work import Parts
from luthier.data.prepared import PreparedSplit
from luthier.stages.results.written import chosen_rows
from luthier.tasks.task import RowWork
from luthier.training.inference import run_batches


def row_references(work: RowWork, parts: Parts, split: PreparedSplit, *, num: int, device: str) -> list[dict[str, Any]]:
    """Return some rows with what the model answers and the numbers behind it, each computed by itself.

    Args:
        work: The task at work.
        parts: Its modules.
        split: The rows.
        num: How many.
        device: Device of the modules.
    """
    rows = chosen_rows(split, num)
    place = {int(id_): index for index, id_ in enumerate(split.ids_N)}
    indices = [place[row.id] for row in rows]
    pairs = split.pairs(indices)
    asked = [work.asked(row, text) for row, text in zip(rows, split.texts(indices), strict=True)]
    rows, texts = [row for row, _ in asked], [text for _, text in asked]
    lines = []
    for number, output in enumerate(run_batches(work.outputs, parts, [work.collate([row]) for row in rows], device=device)):
        line = {"id": rows[number].id, "text": texts[number], "label": work.answers(output)[0].label}
        line |= {} if pairs is None else {"text_pair": pairs[number]}
        lines.append(line | {"logits": [float(value) for value in work.numbers(output)[0].ravel()]})
    return lines
