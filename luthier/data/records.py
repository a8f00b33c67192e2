"""Rows whose task reads more of them than a text and a label: tags, spans, answers with offsets, conversations."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa

from luthier.core.errors import DataError
from luthier.data.clean import mark_surrogates
from luthier.data.collect import Collected, refuse_too_many
from luthier.data.columns import shown
from luthier.data.lines import ROWS, object_lines
from luthier.data.locate import contents, find_format, find_sources
from luthier.data.normalise import equality_keys
from luthier.data.reading import UNDECODABLE, BadRow, Reading, RowFault, excerpt
from luthier.data.rows import Rows, held_apart
from luthier.data.section import DataSection

Record: TypeAlias = Mapping[str, Any]
Open: TypeAlias = Callable[[str, DataSection], Reading | None]


def load_records(section: DataSection, read: Callable[[Record], Record], *, open_as: Open | None = None) -> Rows:
    """Read the rows of a recipe as a task wants them, hold them apart, and say what cannot be used.

    Args:
        section: The `data` section of the recipe; `split`, `slice_by`, `format` and `max_bad_rows` hold as for other tasks.
        read: From the columns of one row to what the task keeps of it: `text`, perhaps `text_pair` and `label` (a name that
            splits are stratified by), and anything else, which is kept as JSON in the column `record`. Raises RowFault.
        open_as: Opens sources of a format that only this task knows, such as CoNLL; None of it means: as any other source.

    Raises:
        DataError: if the data is missing, unreadable or mostly bad.
        ConfigError: if a fraction is asked for a split that is given as a file.
    """
    sources = find_sources(section) if open_as is None else _sources(section)
    taken = {name: _collected(source, section, read, open_as, split=name) for name, source in sources.items()}
    return held_apart(section, sources, taken, [])


def stream_records(
    source: str | BinaryIO,
    section: DataSection,
    read: Callable[[Record], tuple[str, str | None]],
    *,
    bad: list[BadRow],
    notes: list[str] | None = None,
) -> Iterator[pa.Table]:
    """Yield rows that are to be answered, a chunk at a time, as a task reads them from their columns.

    Args:
        source: A file, a folder, a hub id, or a stream of one JSON object a line.
        section: The `data` section.
        read: From the columns of one row to its text and second text. Raises RowFault.
        bad: Rows that cannot be used are added here before their chunk is yielded; may be emptied between chunks.
        notes: Choices that were made are added here.

    Yields:
        Tables with `row`, `text` and `text_pair`.

    Raises:
        DataError: if the source cannot be read, or has no such columns.
    """
    named = source if isinstance(source, str) else "standard input"
    opened = find_format(source, section).read(source, section) if isinstance(source, str) else object_lines(source, section)
    if notes is not None:
        notes += opened.notes
    taken: list[tuple[int, str, str | None]] = []

    def table() -> pa.Table:
        columns = {name: [row[place] for row in taken] for place, name in enumerate(("row", "text", "text_pair"))}
        taken.clear()
        return pa.table(columns)

    for number, row in _rows(opened):
        try:
            taken.append((number, *read(row)))
        except RowFault as fault:
            bad.append(BadRow(named, number, str(fault), excerpt(json.dumps(row, ensure_ascii=False, default=str))))
        if len(taken) == ROWS:
            yield table()
    bad += opened.bad
    yield table()


def column_of(row: Record, named: str | int | None, usual: Sequence[str], *, key: str, needed: bool = True) -> Any:
    """Return what a row has in a column: the one that is named, or else the first with a usual name.

    Args:
        row: The columns of a row, by name.
        named: Name of the column in the recipe, or its number from 0; None: look for a usual name.
        usual: Usual names, in lower case.
        key: What names it in the recipe.
        needed: Whether it must be there; where it need not, None stands for a column that is not named and not found.

    Raises:
        DataError: if there is no such column.
    """
    if named is None:
        found = next((name for name in row if name.strip().lower() in usual), None)
        if found is None and not needed:
            return None
    else:
        places = dict(enumerate(row))
        found = str(named) if str(named) in row else places.get(int(named)) if str(named).isdigit() else None
    if found is None:
        called = f"is called '{named}'" if named is not None else "has a usual name for it"
        raise DataError(f"no column {called}; there are {shown(list(row))}", where=key, fix=f"name one of them with {key}=...")
    return row[found]


def _sources(section: DataSection) -> dict[str, str]:
    """Return the named sources; a format of the task's own has no splits inside."""
    held_out = ("validation",) if section.split.fold is not None else ("validation", "test")
    named = {name: getattr(section, name) for name in ("train", *held_out)}
    found = {name: str(source) for name, source in named.items() if source}
    if not found:
        raise DataError("no data is named", where="data.train", fix="data.train=rows.jsonl, or --data rows.jsonl")
    return found


def _collected(source: str, section: DataSection, read: Callable[[Record], Record], open_as: Open | None, *, split: str) -> Collected:
    opened = open_as(source, section) if open_as is not None else None
    form = "own" if opened is not None else find_format(source, section).registered_name
    opened = opened or find_format(source, section).read(source, section)
    kept: list[dict[str, Any]] = []
    bad: list[BadRow] = []
    for number, row in _rows(opened):
        try:
            kept.append({"row": number, **_held_apart_by(row, section), **_known(read(row))})
        except RowFault as fault:
            bad.append(BadRow(source, number, str(fault), excerpt(json.dumps(row, ensure_ascii=False, default=str)), split))
    bad = sorted([*bad, *(replace(one, split=split) for one in opened.bad)], key=lambda one: one.row)
    if not kept and not bad:
        raise DataError(f"'{source}' has no rows", where=f"data.{split}", fix="add rows, or name another file")
    refuse_too_many(bad, len(kept) + len(bad), section.max_bad_rows, source=source)
    columns = {name: pa.array([row.get(name) for row in kept]) for name in dict.fromkeys(key for row in kept for key in row)}
    table = pa.table(columns)
    facts = {"source": source, "format": form, **contents(source), **opened.facts}
    return Collected(table.append_column("key", equality_keys(table)), bad, list(opened.notes), facts)


def _rows(opened: Reading) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each row with its number, as Python values by column."""
    for chunk in opened.chunks(range(len(opened.columns))):
        cells = [chunk.cells[place] for place in range(len(opened.columns))]
        lists = [cell if isinstance(cell, list) else cell.to_pylist() for cell in cells]
        for number, *values in zip(chunk.rows.tolist(), *lists, strict=True):
            yield number, dict(zip(opened.columns, values, strict=True))


def _held_apart_by(row: Record, section: DataSection) -> dict[str, str]:
    """Return the group and the slice of a row, where the recipe names columns for them."""
    named = {"group": section.split.group_by, "slice": section.slice_by}
    keys = {"group": "data.split.group_by", "slice": "data.slice_by"}
    return {name: str(column_of(row, column, (), key=keys[name])) for name, column in named.items() if column is not None}


def _known(record: Record) -> dict[str, Any]:
    """Return what every task has as columns of their own, and the rest as JSON."""
    own = {name: record[name] for name in ("text", "text_pair", "label") if name in record}
    for name in ("text", "text_pair"):
        if name in own:
            own[name] = _readable(own[name], name)
    rest = {name: value for name, value in record.items() if name not in own}
    return {**own, "record": json.dumps(rest, ensure_ascii=False)}


def _readable(text: Any, noun: str) -> str:
    if not isinstance(text, str):
        raise RowFault(f"{noun} of a wrong type (got {type(text).__name__}, wanted text)")
    if not text.strip():
        raise RowFault(f"empty {noun}")
    marked = mark_surrogates(text)
    if UNDECODABLE in marked:
        raise RowFault("undecodable bytes")
    return marked
