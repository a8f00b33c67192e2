"""Rows of tagged words to encoded rows: what is read, which tags are learnt, and where each word is among the tokens."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from luthier.core.errors import DataError
from luthier.data.rows import Rows
from luthier.data.section import DataSection
from luthier.tasks.text.records_preparation import Laid, Reader
from luthier.tasks.tokens.encoding import EncodedWords, encode_words
from luthier.tasks.tokens.rows import Habits, habits_of, load_tagged
from luthier.tasks.tokens.schemes import labels_of

FACTS = "tagging"  # key of `data.json` with how the rows are written
UNKNOWN = -100  # in the place of a tag that training does not have
MOST_NAMED = 5


def tagged_reader(data: DataSection, *, task: str, scheme: str, names: Sequence[str] | None) -> Reader:
    """Return how rows of tagged words are read, encoded and named.

    Args:
        data: The `data` section.
        task: Name of the task.
        scheme: What the tags are written in, or auto.
        names: Names of tags that are numbers.
    """
    found: list[Habits] = []

    def load() -> Rows:
        habits = habits_of(data, scheme=scheme, names=names)
        found.append(habits)
        rows = load_tagged(data, habits, names)
        facts = {**rows.facts, FACTS: {"scheme": habits.scheme, "manner": habits.manner}}
        said = "tags are plain" if habits.scheme == "plain" else f"tags are read as {habits.scheme} and learnt as IOB2"
        return replace(rows, facts=facts, notes=[f"{said} (task.scheme says otherwise)", *rows.notes])

    return Reader(
        settings={"task": task, "scheme": scheme, "names": None if names is None else list(names)},
        load=load,
        labels=lambda table: _labels(table, found[-1].scheme),
        lay_out=lambda table, tokenizer, longest, labels: laid_words(table, tokenizer, longest, labels, stride_of(data)),
    )


def stride_of(data: DataSection) -> int | None:
    """Return the tokens that windows share; None where long texts are cut."""
    return data.window_stride if data.long_texts == "windows" else None


def _labels(table: pa.Table, scheme: str) -> list[str]:
    """Return the tags that the training rows have.

    Raises:
        DataError: if there is nothing to tell apart.
    """
    labels = labels_of({tag for record in _records(table) for tag in record["tags"]}, scheme)
    if len(labels) < 2:
        what = f"every word has the tag {labels[0]}: there is nothing to learn" if labels else "there are no tags"
        raise DataError(what, where="data.label", fix="name the column with the tags, such as data.label=ner_tags")
    return labels


def laid_words(table: pa.Table, tokenizer: Any, longest: int, labels: Sequence[str], stride: int | None) -> Laid:
    """Return the rows of a split as the model reads them, with the number of each word's tag as target.

    Args:
        table: The rows.
        tokenizer: A fast tokenizer.
        longest: Longest window in tokens.
        labels: Names of the tags.
        stride: Tokens that windows share; None cuts long texts.
    """
    records, texts = _records(table), table["text"].to_pylist()
    spans = [list(zip(record["starts"], record["ends"], strict=True)) for record in records]
    words = encode_words(tokenizer, texts, spans, max_length=longest, stride=stride)
    number = {label: index for index, label in enumerate(labels)}
    targets = [np.array([number.get(tag, UNKNOWN) for tag in record["tags"]], np.int32) for record in records]
    lines = [
        json.dumps({"text": text, **record, "places": places, "pieces": pieces}, ensure_ascii=False)
        for text, record, places, pieces in zip(texts, records, words.places, words.pieces, strict=True)
    ]
    laid = table.set_column(table.column_names.index("record"), "record", pa.array(lines))
    unknown = Counter(tag for record in records for tag in record["tags"] if tag not in number)
    return Laid(laid, words.encoded, targets, notes=[*_notes(words, unknown)])


def _records(table: pa.Table) -> list[dict[str, Any]]:
    return [json.loads(record) for record in table["record"].to_pylist()]


def _notes(words: EncodedWords, unknown: Counter[str]) -> list[str]:
    notes = []
    if unknown:
        named = ", ".join(f"{tag} {count}" for tag, count in unknown.most_common(MOST_NAMED))
        more = f" and {len(unknown) - MOST_NAMED} more" if len(unknown) > MOST_NAMED else ""
        count = sum(unknown.values())
        notes.append(f"{count} words have a tag that no training row has and count as missed ({named}{more})")
    if words.num_cut:
        notes.append(f"{words.num_cut} words stand behind the end of a text that was cut: they are not read and count as missed")
    if words.num_empty:
        notes.append(f"{words.num_empty} words give no token, such as characters without width: they are not read")
    return notes


def record_of(text: str, spans: Sequence[tuple[int, int]], places: Sequence[int], pieces: Sequence[int]) -> str:
    """Return what is kept of a text without tags, as JSON."""
    kept = {"text": text, "starts": [start for start, _ in spans], "ends": [end for _, end in spans]}
    return json.dumps({**kept, "places": list(places), "pieces": list(pieces)}, ensure_ascii=False)
