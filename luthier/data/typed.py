"""Rows that are stored with types (Parquet, Arrow, datasets): batches of pyarrow as chunks, class numbers as names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from luthier.core.errors import DataError
from luthier.data.reading import Cells, Chunk, Reading

ROWS = 1 << 14  # rows in a chunk, at most

Batches = Callable[[list[str]], Iterator[pa.RecordBatch | pa.Table]]


def read_typed(schema: pa.Schema, batches: Batches, source: str) -> Reading:
    """Open rows that pyarrow holds.

    Args:
        schema: Names, types and metadata of the columns.
        batches: Called for each reading with the names of the wanted columns.
        source: What to call the source in messages.
    """
    names = class_names(schema)

    def chunks(wanted: Sequence[int]) -> Iterator[Chunk]:
        taken, keys = 0, {place: schema.names[place] for place in wanted}
        for batch in _sliced(batches(list(keys.values())), source):
            cells = {place: _cells(batch.column(batch.schema.names.index(key)), names.get(key)) for place, key in keys.items()}
            yield Chunk(np.arange(taken + 1, taken + batch.num_rows + 1), cells)
            taken += batch.num_rows

    return Reading(list(schema.names), chunks)


def class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the class names by column that the datasets library keeps in the metadata (its ClassLabel features).

    Args:
        schema: The schema of a Parquet or Arrow file, or of a dataset.
    """
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    found = {column: _names_of(feature) for column, feature in features.items()}
    return {column: names for column, names in found.items() if names}


def _names_of(feature: Any) -> list[str] | None:
    """Return the names of a ClassLabel, or of a list of them."""
    if isinstance(feature, list):
        return _names_of(feature[0]) if feature else None
    if not isinstance(feature, dict):
        return None
    return feature.get("names") if feature.get("_type") == "ClassLabel" else _names_of(feature.get("feature"))


def _sliced(batches: Iterator[pa.RecordBatch | pa.Table], source: str) -> Iterator[pa.RecordBatch | pa.Table]:
    try:
        for batch in batches:
            batch.validate(full=True)  # a damaged file may hold texts that are not UTF-8, or point outside itself
            for start in range(0, batch.num_rows, ROWS):
                yield batch.slice(start, ROWS)
    except (pa.ArrowException, OSError) as error:
        raise damaged(source, error) from None


def damaged(source: str, error: Exception) -> DataError:
    """Return the error for a file that pyarrow cannot read.

    Args:
        source: The file.
        error: What pyarrow said.
    """
    message = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(f"'{source}' cannot be read: {message}", fix="write it again, or say what it is with data.format=...")


def _cells(column: pa.Array | pa.ChunkedArray, names: list[str] | None) -> Cells:
    cells = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if names is None:
        return cells
    return [_named(value, names) for value in cells.to_pylist()]


def _named(value: Any, names: list[str]) -> Any:
    """Return class names for class numbers; a number without a name (-1: hidden label) is missing."""
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None


def read_dataset(dataset: Any, source: str) -> Reading:
    """Open a `datasets.Dataset`.

    Args:
        dataset: The dataset.
        source: What to call the source in messages.
    """

    def batches(names: list[str]) -> Iterator[pa.Table]:
        return dataset.select_columns(names).with_format("arrow").iter(batch_size=ROWS)

    opened = read_typed(dataset.features.arrow_schema, batches, source)
    opened.facts["fingerprint"] = dataset._fingerprint
    return opened
