"""Equal texts in training and in a given validation or test file: the training row is left out, the other untouched."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from luthier.core.errors import DataError
from luthier.data.reading import BadRow, excerpt


def leave_out_equal(
    train: pa.Table, held_out: Mapping[str, pa.Table], *, source: str
) -> tuple[pa.Table, list[BadRow], dict[str, dict[str, int]]]:
    """Leave out the training rows whose text also stands in a split that measures or selects.

    Args:
        train: Training rows, with `key` (equal where texts are equal).
        held_out: The given `validation` and `test` rows; they are not changed.
        source: What to call the training rows.

    Returns:
        The training rows left, those left out, and for each split how many `texts` and how many training `rows` that were.

    Raises:
        DataError: if no training row is left.
    """
    left_out: list[BadRow] = []
    counts: dict[str, dict[str, int]] = {}
    for name, other in held_out.items():
        keys = train["key"]
        equal = pc.is_in(keys, value_set=other["key"].combine_chunks())
        taken = train.filter(equal)
        if taken.num_rows == 0:
            continue
        counts[name] = {"texts": pc.count_distinct(keys.filter(equal)).as_py(), "rows": taken.num_rows}
        reason = f"equal to a {name} row"
        pairs = zip(taken["row"].to_pylist(), taken["text"].to_pylist(), strict=True)
        left_out += [BadRow(source, row, reason, excerpt(text), "train") for row, text in pairs]
        train = train.filter(pc.invert(equal))
        if train.num_rows == 0:
            raise DataError(
                f"every training row of '{source}' also stands in the {name} rows",
                where=f"data.{name}",
                fix=f"name another file with data.{name}=...",
            )
    return train, left_out, counts
