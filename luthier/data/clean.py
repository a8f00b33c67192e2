"""Row by row: is there a text, is there a label, are they what they should be? What is not becomes a BadRow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from luthier.data.columns import Columns
from luthier.data.reading import UNDECODABLE, BadRow, Cells, Chunk, excerpt

# Separators, controls, zero-width and filler characters: a text of nothing else is empty to a reader.
INVISIBLE = r"\s\p{Z}\p{Cc}\p{Cf}\x{034F}\x{115F}\x{1160}\x{2800}\x{3164}\x{FE00}-\x{FE0F}\x{FFA0}"
MISSING_LABEL = "missing label"
WRONG_LABEL = "label of a wrong type"


@dataclass(frozen=True)
class LabelRule:
    """How labels are written.

    Args:
        multi_label: Whether a row has any number of labels.
        separator: What separates several labels in one cell; None: a cell is one label, or a list.
    """

    multi_label: bool = False
    separator: str | None = None


@dataclass
class _Faults:
    """The first fault of each row."""

    reasons: list[str] = field(default_factory=list)
    by_row: dict[int, str] = field(default_factory=dict)

    def mark(self, mask: np.ndarray, reason: str) -> None:
        for row in np.flatnonzero(mask):
            self.by_row.setdefault(int(row), reason)


def clean(chunk: Chunk, columns: Columns, *, source: str, labels: LabelRule | None) -> tuple[pa.Table, list[BadRow]]:
    """Keep the rows of a chunk that can be used.

    Args:
        chunk: Rows as they were read.
        columns: Which cells are what.
        source: What to call the source in the bad rows.
        labels: How labels are written; None where none are wanted (prediction).

    Returns:
        A table with `row`, `text` and, where there are such columns, `text_pair`, `prompt`, `prompt_input`, `label`, `slice` and
        `group`; and the bad rows.
    """
    faults = _Faults()
    noun = "text" if columns.prompt is None else "response"
    parts: dict[str, pa.Array] = {"row": pa.array(chunk.rows, pa.int64()), "text": _texts(chunk.cells[columns.text], faults, noun)}
    if columns.prompt is not None:
        parts["prompt"] = _texts(chunk.cells[columns.prompt], faults, "prompt")
    if columns.prompt_input is not None:
        parts["prompt_input"] = pc.fill_null(_names(chunk.cells[columns.prompt_input]), "")
        _mark_undecodable(parts["prompt_input"], faults)
    if columns.text_pair is not None:
        parts["text_pair"] = _texts(chunk.cells[columns.text_pair], faults, "text_pair")
    if labels is not None and columns.label is not None:
        parts["label"] = _labels(chunk.cells[columns.label], faults, labels)
    for name, position in (("slice", columns.slice), ("group", columns.group)):
        if position is not None:
            parts[name] = _names(chunk.cells[position])
    bad = [_bad_row(chunk, columns, place, reason, source) for place, reason in sorted(faults.by_row.items())]
    table = pa.table(parts)
    if not bad:
        return table, bad
    keep = np.ones(len(chunk.rows), dtype=bool)
    keep[list(faults.by_row)] = False
    return table.filter(pa.array(keep)), bad


def _bad_row(chunk: Chunk, columns: Columns, place: int, reason: str, source: str) -> BadRow:
    cell = chunk.cells[columns.text][place]
    text = excerpt(cell.as_py() if isinstance(cell, pa.Scalar) else cell)
    return BadRow(chunk.files[place] if chunk.files else source, int(chunk.rows[place]), reason, text)


def _texts(cells: Cells, faults: _Faults, noun: str) -> pa.Array:
    """Return the texts as strings; marks the empty, the undecodable and what is not text."""
    texts = _strings(cells)
    if texts is None:
        values = cells if isinstance(cells, list) else cells.to_pylist()
        for place, value in enumerate(values):
            if value is not None and not isinstance(value, str):
                faults.by_row.setdefault(place, f"{noun} of a wrong type (got {_kind(value)}, wanted text)")
        texts = _encoded([value if isinstance(value, str) else None for value in values])
    seen = pc.and_kleene(texts.is_valid(), pc.match_substring_regex(texts, f"[^{INVISIBLE}]"))
    faults.mark(~seen.to_numpy(zero_copy_only=False), f"empty {noun}")
    _mark_undecodable(texts, faults)
    return texts


def _labels(cells: Cells, faults: _Faults, rule: LabelRule) -> pa.Array:
    if rule.multi_label:
        return _each(cells, faults, lambda cell: _label_list(cell, rule.separator), pa.list_(pa.string()))
    names = _strings(cells)
    if names is None and isinstance(cells, pa.Array) and pa.types.is_integer(cells.type):
        names = cells.cast(pa.string())
    if names is None:
        return _each(cells, faults, label_name, pa.string())
    names = pc.utf8_trim_whitespace(names)
    lengths = pc.binary_length(names).to_numpy(zero_copy_only=False)  # not a number where there is none
    faults.mark(~(lengths > 0), MISSING_LABEL)
    _mark_undecodable(names, faults)
    return names


def _each(cells: Cells, faults: _Faults, convert: Callable[[Any], Any], kind: pa.DataType) -> pa.Array:
    """Convert cell by cell: None is missing, a TypeError a wrong type."""
    values: list[Any] = []
    for place, cell in enumerate(cells if isinstance(cells, list) else cells.to_pylist()):
        try:
            values.append(convert(cell))
            if values[-1] is None:
                faults.by_row.setdefault(place, MISSING_LABEL)
        except TypeError as error:
            values.append(None)
            faults.by_row.setdefault(place, f"{WRONG_LABEL} ({error})")
    return pa.array(values, kind)


def label_name(cell: Any) -> str | None:
    """Return the name of a label as it was written: 1, 1.0 and "1" are "1", true is "true"; None where it is missing.

    Args:
        cell: What stands in the label column.

    Raises:
        TypeError: if the cell is a list or an object.
    """
    if isinstance(cell, str):
        return mark_surrogates(cell).strip() or None
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, (int, float)):
        return str(cell)
    raise TypeError(f"got {_kind(cell)}, wanted one label")


def mark_surrogates(text: str) -> str:
    """Return the text with every half character (a lone surrogate, as JSON can hold) marked as undecodable."""
    return text.encode("utf-8", "luthier-undecodable").decode("utf-8")


def _label_list(cell: Any, separator: str | None) -> list[str] | None:
    """Return the labels of a multi-label cell; an empty list is a row with no label, an empty text a missing one."""
    if isinstance(cell, str):
        names = cell.split(separator) if separator else [cell]
        return list(dict.fromkeys(name.strip() for name in names if name.strip())) or None
    if not isinstance(cell, (list, tuple)):
        name = label_name(cell)
        return None if name is None else [name]
    listed = [label_name(one) for one in cell]
    return None if None in listed else list(dict.fromkeys(name for name in listed if name))


def _names(cells: Cells) -> pa.Array:
    """Return cells as strings whatever they are; a missing one stays missing."""
    strings = _strings(cells)
    if strings is not None:
        return strings
    values = cells if isinstance(cells, list) else cells.to_pylist()
    return _encoded([None if value is None else str(value) for value in values])


def _strings(cells: Cells) -> pa.Array | None:
    """Return the cells as an array of strings where they all are strings, else None."""
    if isinstance(cells, list):
        return _encoded(cells) if all(cell is None or isinstance(cell, str) for cell in cells) else None
    if pa.types.is_dictionary(cells.type):
        return _strings(cells.dictionary_decode())
    if pa.types.is_null(cells.type) or pa.types.is_large_string(cells.type) or pa.types.is_string_view(cells.type):
        return cells.cast(pa.string())
    if pa.types.is_binary(cells.type) or pa.types.is_large_binary(cells.type):
        values = cells.to_pylist()
        return pa.array([None if value is None else value.decode("utf-8", "luthier-undecodable") for value in values], pa.string())
    return cells if pa.types.is_string(cells.type) else None


def _encoded(values: list[str | None]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        return pa.array([None if value is None else mark_surrogates(value) for value in values], pa.string())


def _mark_undecodable(strings: pa.Array, faults: _Faults) -> None:
    found = pc.and_kleene(strings.is_valid(), pc.match_substring(strings, UNDECODABLE))
    if pc.any(found).as_py():
        faults.mark(found.to_numpy(zero_copy_only=False), "undecodable bytes")


def _kind(value: object) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "an object", str: "text"}
    return names.get(type(value), type(value).__name__)
