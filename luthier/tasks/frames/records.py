"""Rows with words, slot tags and an intent: from a folder with seq.in, seq.out and label, or from columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.errors import DataError
from luthier.data.encoding import decode, reading
from luthier.data.formats.format import SPLIT_NAMES
from luthier.data.reading import Chunk, Reading, RowFault
from luthier.data.records import Record, column_of
from luthier.data.section import DataSection
from luthier.tasks.frames.tags import fault_of_tags
from luthier.tasks.frames.words import words_of

FILES = {"seq.in": "tokens", "seq.out": "tags", "label": "intent"}
WORD_NAMES = ("tokens", "words", "seq.in", "text", "utterance", "sentence", "query", "文本", "句子")
TAG_NAMES = ("tags", "slots", "seq.out", "slot_tags", "slot_labels", "ner_tags", "labels", "标签")
INTENT_NAMES = ("intent", "label", "intent_label", "class", "意图", "类别")
ROWS = 4096


def with_splits(data: DataSection) -> DataSection:
    """Return the section with its splits named, where the training rows are a folder that holds a folder for each split."""
    if data.train is None:
        return data
    folder = Path(data.train)
    inside = sorted(entry for entry in folder.iterdir() if _is_frames(entry)) if folder.is_dir() and not _is_frames(folder) else []
    found = {SPLIT_NAMES[entry.name.lower()]: str(entry) for entry in inside if entry.name.lower() in SPLIT_NAMES}
    if "train" not in found:
        return data
    given = {name: source for name in ("validation", "test") if (source := getattr(data, name))}
    return data.model_copy(update={**found, **given})


def open_frames(source: str, section: DataSection) -> Reading | None:
    """Open a folder with seq.in, seq.out and label, one row a line in each; None of anything else.

    Raises:
        DataError: if the files differ in their number of lines.
    """
    path = Path(source).expanduser()
    folder = path.parent if path.name in FILES else path
    if not _is_frames(folder):
        return None
    lines = {name: _lines(folder / name, section.encoding) for name in FILES}
    numbers = {len(found) for found in lines.values()}
    if len(numbers) > 1:
        counted = ", ".join(f"{name} {len(found):,}" for name, found in lines.items())
        raise DataError(f"the files of '{folder}' differ in their number of lines: {counted}", fix="a row is one line in each of them")
    cells = list(lines.values())

    def chunks(wanted: Sequence[int]) -> Iterator[Chunk]:
        for start in range(0, len(cells[0]), ROWS):
            chosen = slice(start, start + ROWS)
            taken = {place: list(cells[place][chosen]) for place in wanted}
            yield Chunk(np.arange(start + 1, start + 1 + len(cells[0][chosen])), taken)

    return Reading(list(FILES.values()), chunks)


def frame_of(row: Record, data: DataSection, tags: str | None, how: str) -> Record:
    """Return text, words, slot tags and intent of a row.

    Args:
        row: Its columns.
        data: Which columns hold words and intent.
        tags: Which holds the tags; None: one of a usual name.
        how: How a text falls into words, see `words_of`.

    Raises:
        RowFault: if it cannot be used.
    """
    words = _listed(column_of(row, data.text, WORD_NAMES, key="data.text"), "words")
    named = _listed(column_of(row, tags, TAG_NAMES, key="task.tags"), "tags")
    intent = column_of(row, data.label, INTENT_NAMES, key="data.label")
    if not isinstance(intent, str | int) or not str(intent).strip():
        raise RowFault("missing intent" if intent is None or isinstance(intent, str) else f"intent of a wrong type (got {intent!r})")
    if not words:
        raise RowFault("no words")
    if len(words) != len(named):
        raise RowFault(f"not one tag for each word (got {len(words)} words and {len(named)} tags)")
    fault = fault_of_tags(named)
    if fault is not None:
        raise RowFault(fault)
    text = " ".join(words)
    spans = words_of(text, how)
    if [text[start:end] for start, end in spans] != words:
        wrong = next(word for word in words if [text for text in _cut(word, how)] != [word])
        raise RowFault(f"word that a new text would not be split into (got {wrong!r}; task.words is {how})")
    return {"text": text, "label": str(intent), "intent": str(intent), "words": spans, "tags": named}


def _cut(word: str, how: str) -> list[str]:
    return [word[start:end] for start, end in words_of(word, how)]


def _listed(cell: Any, noun: str) -> list[str]:
    """Return a cell as words: a list as it is, a text at its spaces."""
    if isinstance(cell, str):
        return cell.split()
    if isinstance(cell, list | tuple) and all(isinstance(one, str) for one in cell):
        return list(cell)
    raise RowFault(f"{noun} of a wrong type (got {type(cell).__name__}, wanted a list of texts, or one text with spaces)")


def _is_frames(path: Path) -> bool:
    return path.is_dir() and all((path / name).is_file() for name in FILES)


def _lines(path: Path, encoding: str) -> list[str]:
    with reading(path):
        text, _ = decode(path.read_bytes(), encoding)
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines and not lines[-1] else lines
