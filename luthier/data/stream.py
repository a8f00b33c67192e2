"""Rows to predict, a chunk at a time in constant memory: from a file, or from lines on standard input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pyarrow as pa

from luthier.core.errors import DataError
from luthier.data.clean import clean
from luthier.data.columns import Columns, resolve
from luthier.data.encoding import examine, reading
from luthier.data.lines import ROWS, decoded_lines, object_reading
from luthier.data.locate import find_format
from luthier.data.objects import parse_line
from luthier.data.reading import BadRow, Chunk, Reading, RowFault, excerpt
from luthier.data.section import DataSection

if TYPE_CHECKING:
    from luthier.data.dialogues import Dialogues


def stream_rows(source: str, section: DataSection, *, bad: list[BadRow], notes: list[str] | None = None) -> Iterator[pa.Table]:
    """Yield the rows of a file in order, at most 4,096 at a time.

    A `.txt` file without tabs is one text a line.

    Args:
        source: A file, a folder or a hub id.
        section: The `data` section; no label is needed.
        bad: Rows that cannot be used are added here before their chunk is yielded; may be emptied between chunks.
        notes: Choices that were made are added here.

    Yields:
        Tables with `row` (from 1), `text` and, where the section names one, `text_pair`.

    Raises:
        DataError: if the source cannot be read, or the text column is not there.
    """
    source = str(Path(source).expanduser())
    kind = find_format(source, section)
    if section.format == "auto" and Path(source.removesuffix(".gz")).suffix == ".txt" and _is_lines(source, section):
        with reading(Path(source)), examine(Path(source), section.encoding).open() as lines:
            yield from stream_lines(lines, section.model_copy(update={"encoding": "utf-8"}), bad=bad, source=source, notes=notes)
        return
    yield from _either(kind.read(source, section), section, source, bad, notes)


def stream_lines(
    lines: BinaryIO, section: DataSection, *, bad: list[BadRow], source: str = "standard input", notes: list[str] | None = None
) -> Iterator[pa.Table]:
    """Yield the rows of a stream: one text a line, or one JSON object a line with the text column.

    Args:
        lines: Bytes, such as `sys.stdin.buffer`.
        section: `text`, `text_pair` and `encoding` are used.
        bad: Lines that cannot be used are added here before their chunk is yielded; may be emptied between chunks.
        source: What to call the stream in messages.
        notes: Choices that were made are added here.

    Yields:
        Tables like those of `stream_rows`; `row` is the number of the line.

    Raises:
        DataError: if the text column is not there, a line is over 10 MB, or two texts are wanted and plain lines given.
    """
    decoded = decoded_lines(lines, section.encoding, source)
    first = next(decoded, None)
    if first is None:
        raise DataError(f"{source} is empty", fix="give one text a line, or one JSON object a line")
    every = chain([first], decoded)
    if isinstance(parse_line(first), dict):
        yield from _either(object_reading(every, source), section, source, bad, notes)
        return
    if section.text_pair is not None:
        raise DataError(f"two texts are wanted for each row, and {source} has plain lines", fix="give one JSON object a line")
    yield from _tables(Reading(["text"], lambda _: _line_chunks(every)), Columns(0), source, bad, notes)


def _either(opened: Reading, section: DataSection, source: str, bad: list[BadRow], notes: list[str] | None) -> Iterator[pa.Table]:
    """Yield conversations, each as JSON in `text`, where the model was trained on some and the columns are there; else texts."""
    from luthier.data.dialogues import dialogues_of

    dialogues: Dialogues | None = None
    said: list[str] = []
    if section.messages is not None or section.prompt is not None:
        columns = section if str(section.messages) in opened.columns else section.model_copy(update={"messages": None})
        dialogues, said = dialogues_of(opened.columns, columns, source=source)
    if dialogues is None:
        found = resolve(opened, section, source=source, need_label=False, predicting=True)
        yield from _tables(opened, found, source, bad, notes)
        return
    opened.notes += said
    yield from _spoken(opened, dialogues, source, bad, notes)


def _spoken(opened: Reading, dialogues: Dialogues, source: str, bad: list[BadRow], notes: list[str] | None) -> Iterator[pa.Table]:
    from luthier.data.dialogues import spoken_json

    if notes is not None:
        notes += opened.notes
    names = [name for name in dict.fromkeys(dialogues.columns.values()) if name in opened.columns]
    for chunk in opened.chunks([opened.columns.index(name) for name in names]):
        cells = [chunk.cells[opened.columns.index(name)] for name in names]
        lists = [cell if isinstance(cell, list) else cell.to_pylist() for cell in cells]
        kept: list[tuple[int, str]] = []
        dropped = []
        for number, *values in zip(chunk.rows.tolist(), *lists, strict=True):
            row = dict(zip(names, values, strict=True))
            try:
                kept.append((number, spoken_json(dialogues.read(row, answered=False))))
            except RowFault as fault:
                dropped.append(BadRow(source, number, str(fault), excerpt(values[0])))
        bad += sorted([*opened.bad, *dropped], key=lambda one: one.row)
        opened.bad.clear()
        rows = pa.array([number for number, _ in kept], pa.int64())
        table = pa.table({"row": rows, "text": pa.array([text for _, text in kept], pa.string())})
        yield from (table.slice(start, ROWS) for start in range(0, table.num_rows, ROWS))
    bad += opened.bad


def _tables(opened: Reading, columns: Columns, source: str, bad: list[BadRow], notes: list[str] | None) -> Iterator[pa.Table]:
    if notes is not None:
        notes += opened.notes
    for chunk in opened.chunks(columns.positions):
        table, dropped = clean(chunk, columns, source=source, labels=None)
        bad += sorted([*opened.bad, *dropped], key=lambda one: one.row)
        opened.bad.clear()
        yield from (table.slice(start, ROWS) for start in range(0, table.num_rows, ROWS))
    bad += opened.bad


def _is_lines(source: str, section: DataSection) -> bool:
    file = examine(Path(source), section.encoding)
    with reading(file.path), file.open() as stream:
        return (section.delimiter or "\t").encode() not in next((line for line in stream if line.strip()), b"")


def _line_chunks(lines: Iterable[str]) -> Iterator[Chunk]:
    lines, taken = iter(lines), 0
    while texts := list(islice(lines, ROWS)):
        yield Chunk(np.arange(taken + 1, taken + len(texts) + 1), {0: texts})
        taken += len(texts)
