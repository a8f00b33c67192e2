"""Rows of choices as windows, one for each choice of a row."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

from luthier.core.errors import DataError
from luthier.data.encode import Encoded
from luthier.data.reading import BadRow, excerpt
from luthier.data.section import DataSection
from luthier.tasks.text.choices import Asked, alike_when_cut, windows_of_choices
from luthier.tasks.text.records_preparation import Laid


def written_of(question: Asked) -> dict[str, Any]:
    """Return what is kept of a row as JSON: its choices, and its question where that stands apart from the text."""
    return {"choices": list(question.choices), "question": question.question}


def lay_out_choices(table: pa.Table, tokenizer: Any, longest: int, data: DataSection) -> Laid:
    """Return rows as windows; those whose choices are the same once they are cut are left out and named.

    Args:
        table: Rows whose records have choices, and which of them is right.
        tokenizer: A fast tokenizer.
        longest: Longest window in tokens.
        data: Where the rows are from.

    Raises:
        DataError: if no row is left.
    """
    questions, right_N = _asked_of(table)
    encoded = windows_of_choices(tokenizer, questions, max_length=longest)
    alike_N = alike_when_cut(encoded)
    bad: list[BadRow] = []
    if alike_N.any():
        reason = f"choices that are the same once they are cut (to {longest} tokens)"
        left = table.filter(pa.array(alike_N))
        cells = zip(left["row"].to_pylist(), left["text"].to_pylist(), strict=True)
        bad = [BadRow(data.train or data.test or "", row, reason, excerpt(text)) for row, text in cells]
        table = table.filter(pa.array(~alike_N))
        questions, right_N = _asked_of(table)
        encoded = windows_of_choices(tokenizer, questions, max_length=longest)
    if not questions:
        fix = "allow longer texts with data.max_length, or use a model that takes them"
        raise DataError("no row is left whose choices can be told apart", where="data.max_length", fix=fix)
    return Laid(table, encoded, right_N, bad, _notes(encoded, len(bad)))


def _asked_of(table: pa.Table) -> tuple[list[Asked], np.ndarray]:
    records = [json.loads(record) for record in table["record"].to_pylist()]
    texts = table["text"].to_pylist()
    questions = [Asked(text, tuple(record["choices"]), record["question"]) for text, record in zip(texts, records, strict=True)]
    return questions, np.array([record["right"] for record in records], np.int64)


def _notes(encoded: Encoded, num_alike: int) -> list[str]:
    counts_N = encoded.num_windows_N
    least, most, chance = counts_N.min(), counts_N.max(), float((1 / counts_N).mean())
    number = f"{most}" if least == most else f"{least} to {most}"
    notes = [f"{number} choices a row; a guess is right in {chance:.1%}"]
    if num_alike:
        notes.append(f"{num_alike} rows left out: their choices are the same once they are cut")
    return notes
