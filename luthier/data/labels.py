"""Are the labels classes? Stops before training where they cannot be."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from luthier.core.errors import DataError
from luthier.core.names import nearest
from luthier.data.reading import BadRow, excerpt

FEW_ROWS = 20  # below this nothing is said about shares
OWN_VALUE = 0.9  # share of distinct labels above which a column looks like an id or free text
MANY_NUMBERS = 100


def label_counts(table: pa.Table) -> dict[str, int]:
    """Return how many rows have each label, sorted by name.

    Args:
        table: Rows with `label`: a string, or a list of strings.
    """
    labels = table["label"]
    counts = pc.value_counts(pc.list_flatten(labels) if pa.types.is_list(labels.type) else labels)
    return dict(sorted((entry["values"], entry["counts"]) for entry in counts.to_pylist()))


def require_classes(table: pa.Table, *, source: str, known: Collection[str] = ()) -> list[str]:
    """Check that the labels of the training rows are classes.

    Args:
        table: Training rows with `label`.
        source: What to call them in messages.
        known: Labels that the model has already.

    Returns:
        Notes, such as classes with a single row.

    Raises:
        DataError: if there is one class only, or the labels look like numbers to predict, ids or free text.
    """
    counts = label_counts(table)
    if len({*counts, *known}) < 2:
        found = f"only the label '{next(iter(counts))}'" if counts else "no label at all"
        raise DataError(
            f"'{source}' has {found} in {table.num_rows} rows; a classifier needs at least two classes",
            where="data.label",
            fix="name the column that holds the classes with data.label=..., or add rows of the other classes",
        )
    _check_not_numbers(counts, table.num_rows, source)
    if table.num_rows >= FEW_ROWS and len(counts) > OWN_VALUE * table.num_rows:
        raise DataError(
            f"almost every row of '{source}' has a label of its own ({len(counts):,} labels in {table.num_rows:,} rows), such as "
            f"{excerpt(next(iter(counts)))!r}: this looks like an id or free text, not classes",
            where="data.label",
            fix="name the column that holds the classes with data.label=...",
        )
    single = [name for name, count in counts.items() if count < 2]
    shown = ", ".join(repr(name) for name in single[:5]) + (" ..." if len(single) > 5 else "")
    return [f"{source}: {len(single)} of {len(counts)} classes have one row only ({shown})"] if single else []


def _check_not_numbers(counts: dict[str, int], num_rows: int, source: str) -> None:
    try:
        values = np.array(list(counts), dtype=np.float64)
    except ValueError:
        return
    fractional = bool((values != np.round(values)).any())
    most = MANY_NUMBERS if fractional else max(MANY_NUMBERS, num_rows // 2)
    if len(values) <= most and not (fractional and num_rows >= FEW_ROWS and len(values) > num_rows // 2):
        return
    raise DataError(
        f"the labels of '{source}' are {len(counts):,} different numbers from {np.nanmin(values):g} to {np.nanmax(values):g}: "
        "these look like numbers to predict (regression), not classes",
        where="data.label",
        fix="make classes of them (for instance low, middle, high) in a column of its own and name it with data.label=...",
    )


def set_unknown_aside(table: pa.Table, known: Collection[str], *, source: str, split: str) -> tuple[pa.Table, list[BadRow]]:
    """Take out the rows whose label never occurs in training.

    Args:
        table: Rows of another split.
        known: The labels of the training rows.
        source: What to call the rows in the bad rows.
        split: Name of the split.
    """
    labels = table["label"].combine_chunks()
    multi_label = pa.types.is_list(labels.type)
    flat = pc.list_flatten(labels) if multi_label else labels
    unknown = pc.invert(pc.is_in(flat, value_set=pa.array(sorted(known), pa.string()))).to_numpy(zero_copy_only=False)
    if not unknown.any():
        return table, []
    owners = pc.list_parent_indices(labels).to_numpy() if multi_label else np.arange(len(labels))
    names = {int(owner): flat[int(place)].as_py() for place, owner in enumerate(owners) if unknown[place]}
    keep = np.ones(table.num_rows, dtype=bool)
    keep[list(names)] = False
    taken = table.filter(pa.array(~keep))
    found = zip(names.values(), taken["row"].to_pylist(), taken["text"].to_pylist(), strict=True)
    return table.filter(pa.array(keep)), [BadRow(source, row, _unknown(name, known), excerpt(text), split) for name, row, text in found]


def _unknown(name: str, known: Collection[str]) -> str:
    close = nearest(name, known, limit=1)
    return f"label that training does not have (got {excerpt(name)!r}" + (f", nearest {close[0]!r})" if close else ")")
