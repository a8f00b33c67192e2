"""Rows with two entities and the relation between them: the format of SemEval-2010 task 8, marks in the text, or spans in columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from luthier.data.collect import refuse_too_many
from luthier.data.columns import TEXT_NAMES
from luthier.data.encoding import decode, reading
from luthier.data.facts import describe_split
from luthier.data.labels import label_counts, require_classes, set_unknown_aside
from luthier.data.reading import Chunk, Reading, RowFault
from luthier.data.records import Record, column_of, load_records
from luthier.data.rows import Rows
from luthier.data.section import DataSection
from luthier.tasks.relations.marks import Entity, Marked, read_marks, require_entities, write_marks

LABEL_NAMES = ("relation", "label", "relations", "class", "relation_type", "关系", "标签")
HEAD_NAMES = ("head", "subject", "subj", "e1", "h", "entity1")
TAIL_NAMES = ("tail", "object", "obj", "e2", "t", "entity2")
SENTENCE = re.compile(r"\s*\d+\t\s*(\S.*)")
ROWS = 4096
LOOKED_AT = 4096  # bytes


def load_relations(data: DataSection, head: str | None, tail: str | None, *, known: Sequence[str] | None = None) -> Rows:
    """Read the rows of a recipe; those of other splits whose relation training does not have are set aside.

    Args:
        data: Where the rows are.
        head: Column with the first entity; None: one of a usual name, or marks in the text.
        tail: Column with the second.
        known: Relations that a finished model knows, where there are no training rows.

    Raises:
        DataError: if the rows cannot be used.
    """
    rows = load_records(data, lambda row: _relation(row, data, head, tail), open_as=open_semeval)
    train = rows.splits.get("train")
    notes = require_classes(train, source=str(data.train)) if train is not None else []
    labels = known if known is not None else label_counts(train) if train is not None else None
    if labels is None:
        return replace(rows, notes=[*rows.notes, *notes])
    splits, bad = dict(rows.splits), list(rows.bad)
    for name, table in rows.splits.items():
        source = str(getattr(data, name) or data.train)
        splits[name], unknown = set_unknown_aside(table, labels, source=source, split=name)
        refuse_too_many(unknown, table.num_rows, data.max_bad_rows, source=source)
        bad += unknown
        if unknown:
            notes.append(f"{name}: {len(unknown)} rows left out, whose relation training does not have (quarantine.jsonl)")
    facts = {**rows.facts, "splits": {name: describe_split(table) for name, table in splits.items()}}
    return Rows(splits, bad, facts, [*rows.notes, *notes])


def open_semeval(source: str, section: DataSection) -> Reading | None:
    """Open a text file of numbered sentences, each with its relation on the next line; None of anything else."""
    path = Path(source).expanduser()
    if not path.is_file() or path.suffix.lower() != ".txt":
        return None
    with reading(path), path.open("rb") as stream:
        first = stream.read(LOOKED_AT).decode("utf-8", "replace").lstrip().partition("\n")[0]
    if not SENTENCE.match(first) or "<e1>" not in first:
        return None
    with reading(path):
        text, encoding = decode(path.read_bytes(), section.encoding)
    cells = _sentences(text)

    def chunks(wanted: Sequence[int]) -> Iterator[Chunk]:
        for start in range(0, len(cells[0]), ROWS):
            chosen = slice(start, start + ROWS)
            yield Chunk(np.arange(start + 1, start + 1 + len(cells[0][chosen])), {place: list(cells[place][chosen]) for place in wanted})

    return Reading(["text", "relation"], chunks, facts={"encoding": encoding})


def types_of(table: pa.Table) -> set[str]:
    """Return the types of the entities of some rows."""
    marked = [read_marks(text) for text in table["text"].to_pylist()]
    return {entity.type for one in marked for entity in (one.first, one.second) if entity.type}


def _sentences(text: str) -> tuple[list[str], list[str | None]]:
    """Return sentences and relations; comments and blank lines are passed over."""
    sentences: list[str] = []
    relations: list[str | None] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        begun = SENTENCE.match(line)
        if begun:
            written = begun[1].strip()
            sentences.append(written[1:-1] if len(written) > 1 and written[0] == written[-1] == '"' else written)
            relations.append(None)
        elif line.strip() and relations and relations[-1] is None and not line.startswith("Comment"):
            relations[-1] = line.strip()
    return sentences, relations


def _relation(row: Record, data: DataSection, head: str | None, tail: str | None) -> Record:
    """Return the marked text and the relation of a row."""
    text = column_of(row, data.text, TEXT_NAMES, key="data.text")
    first = column_of(row, head, HEAD_NAMES, key="task.head", needed=head is not None)
    second = column_of(row, tail, TAIL_NAMES, key="task.tail", needed=tail is not None)
    relation = column_of(row, data.label, LABEL_NAMES, key="data.label")
    if not isinstance(text, str):
        raise RowFault(f"text of a wrong type (got {type(text).__name__}, wanted text)")
    if not isinstance(relation, str) or not relation.strip():
        raise RowFault("missing relation" if not relation else f"relation of a wrong type (got {relation!r}, wanted text)")
    if first is None and second is None:
        marked = read_marks(text)
    else:
        marked = require_entities(Marked(text, _entity(first, "head"), _entity(second, "tail")))
    return {"text": write_marks(marked), "label": relation.strip()}


def _entity(cell: Any, noun: str) -> Entity:
    if not isinstance(cell, Mapping):
        raise RowFault(f"{noun} of a wrong type (got {cell!r}, wanted an object with start and end)")
    start, end = cell["pos"] if isinstance(cell.get("pos"), list) and len(cell["pos"]) == 2 else (cell.get("start"), cell.get("end"))
    if not isinstance(start, int) or not isinstance(end, int):
        raise RowFault(f"{noun} without its places (got {dict(cell)!r}, wanted start and end in characters)")
    return Entity(start, end, str(cell["type"]) if cell.get("type") else None)
