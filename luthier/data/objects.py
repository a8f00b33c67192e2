"""Rows that are JSON objects: keys are columns, cells keep their types until they are cleaned."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from luthier.core.errors import DataError
from luthier.data.reading import BadRow, Chunk, Reading, excerpt

CHUNK = 4096
PEEK = 1000  # objects that are looked at to find the columns


def read_objects(objects: Callable[[], Iterator[Any]], source: str, *, peek: int = PEEK) -> Reading:
    """Open rows that are objects.

    Args:
        objects: Called for each reading; yields one value a row, or a BadRow without number where a row is broken.
        source: What to call the source in messages.
        peek: How many rows are looked at to find the columns.

    Raises:
        DataError: if there are no rows, or none of the first is an object.
    """
    first = list(islice(objects(), peek))
    if not first:
        raise DataError(f"'{source}' has no rows", fix="name a file with rows in it")
    columns = list(dict.fromkeys(str(key) for row in first if isinstance(row, dict) for key in row))
    if not columns:
        reason = _fault(first[0], source, 1).reason
        raise DataError(
            f"no row of '{source}' is a JSON object with columns: row 1: {reason}",
            where=excerpt(first[0].text if isinstance(first[0], BadRow) else first[0]),
            fix='write one object for each row, such as {"text": "...", "label": "..."}',
        )
    opened = Reading(columns, lambda wanted: _chunks(objects(), wanted, opened, source))
    return opened


def parse_line(line: str) -> Any:
    """Return the value of one line of JSON, or a BadRow that says why it is broken.

    Args:
        line: The line.
    """
    try:
        return json.loads(line)
    except RecursionError:
        return BadRow("", 0, "broken JSON (nested too deep)", excerpt(line))
    except ValueError as error:
        message = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        return BadRow("", 0, f"broken JSON ({message})", excerpt(line))


def _chunks(rows: Iterable[Any], wanted: Sequence[int], opened: Reading, source: str) -> Iterator[Chunk]:
    opened.bad.clear()
    keys = {place: opened.columns[place] for place in wanted}
    numbered = enumerate(rows, start=1)
    while taken := list(islice(numbered, CHUNK)):
        good = [(number, row) for number, row in taken if isinstance(row, dict)]
        opened.bad += [_fault(row, source, number) for number, row in taken if not isinstance(row, dict)]
        numbers = np.array([number for number, _ in good], dtype=np.int64)
        yield Chunk(numbers, {place: [row.get(key) for _, row in good] for place, key in keys.items()})


def _fault(row: Any, source: str, number: int) -> BadRow:
    if isinstance(row, BadRow):
        return BadRow(source, number, row.reason, row.text)
    return BadRow(source, number, f"not a JSON object (got {type(row).__name__})", excerpt(row))
