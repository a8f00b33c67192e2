"""Rows of `intent-and-slots` as the model reads them: tokens, the first token of each word, and what is learnt there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from luthier.tasks.frames.tags import tag_names
from luthier.tasks.frames.words import UNREAD, encode_words
from luthier.tasks.text.records_preparation import Laid

INTENT, SLOT = "intent: ", "slot: "
UNKNOWN = -100
"""A target that is not learnt: an intent or a tag that training does not have, a word that is not read."""


def _records_of(table: pa.Table) -> list[dict[str, Any]]:
    return [json.loads(record) for record in table["record"].to_pylist()]


def outputs_of(train: pa.Table) -> list[str]:
    """Return the names of the model's outputs: the intents of the training rows, then their slot tags."""
    records = _records_of(train)
    return output_names(sorted({record["intent"] for record in records}), tag_names([record["tags"] for record in records]))


def output_names(intents: Sequence[str], tags: Sequence[str]) -> list[str]:
    """Return the names of the model's outputs: the intents, then the slot tags."""
    return [*(f"{INTENT}{name}" for name in intents), *(f"{SLOT}{tag}" for tag in tags)]


def names_after(kind: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return the intents, or the tags, among the names of the outputs."""
    return tuple(name.removeprefix(kind) for name in names if name.startswith(kind))


def laid_frames(table: pa.Table, tokenizer: Any, longest: int, names: Sequence[str]) -> Laid:
    """Return rows with their tokens; of each the targets are its intent, and the tag of each word that is read.

    Args:
        table: Rows with `text` and `record`.
        tokenizer: A fast tokenizer.
        longest: Longest text in tokens.
        names: Names of the model's outputs.
    """
    intents, tags = ({name: index for index, name in enumerate(names_after(kind, names))} for kind in (INTENT, SLOT))
    texts, records = table["text"].to_pylist(), _records_of(table)
    encoded, places = encode_words(tokenizer, texts, [record["words"] for record in records], max_length=longest)
    targets, lines = [], []
    for text, record, found in zip(texts, records, places, strict=True):
        read = [tags.get(tag, UNKNOWN) if place != UNREAD else UNKNOWN for tag, place in zip(record["tags"], found, strict=True)]
        targets.append(np.array([intents.get(record["intent"], UNKNOWN), *read], np.int64))
        lines.append(json.dumps({**record, "text": text, "places": found}, ensure_ascii=False))
    column = table.column_names.index("record")
    notes = _notes(records, places, encoded.too_long_N, (set(intents), set(tags)))
    return Laid(table.set_column(column, "record", pa.array(lines)), encoded, targets, notes=notes)


def _notes(
    records: Sequence[dict[str, Any]], places: Sequence[Sequence[int]], too_long_N: np.ndarray, known: tuple[set[str], set[str]]
) -> list[str]:
    """Return what is to be said of intents and tags that training does not have, and of words that are not read."""
    intents = sum(record["intent"] not in known[0] for record in records)
    tags = sum(not known[1].issuperset(record["tags"]) for record in records)
    dropped = sum(UNREAD in found for found, long in zip(places, too_long_N, strict=True) if not long)
    said = [
        (intents, "rows with an intent that training does not have, which stay and count as wrong"),
        (tags, "rows with a slot tag that training does not have, which stay and whose slot counts as missed"),
        (dropped, "rows with a word that the tokenizer drops, which gets no slot"),
    ]
    return [f"{what}: {number}" for number, what in said if number]


def filled(lists: Sequence[Sequence[int]], padding: int) -> np.ndarray:
    """Return lists of numbers as one array, filled up."""
    filled_BW = np.full((len(lists), max(map(len, lists), default=1)), padding, np.int64)
    for row, values in enumerate(lists):
        filled_BW[row, : len(values)] = values
    return filled_BW
