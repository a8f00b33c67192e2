"""What every format gives: columns by position, chunks of cells with their row numbers, and the rows it could not read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

UNDECODABLE = "\ufdd0"  # a code point that is never a character: stands where bytes could not be decoded
EXCERPT = 80

Cells: TypeAlias = "pa.Array | list[Any]"


@dataclass(frozen=True)
class BadRow:
    """A row that is not used, and why.

    Args:
        file: The file or folder it stands in, as the user named it.
        row: Number of the row, from 1, the header not counted.
        reason: Why, with details in brackets at the end: `wrong number of cells (got 3, wanted 2)`.
        text: The start of what was read.
        split: `train`, `validation` or `test`; empty while predicting.
    """

    file: str
    row: int
    reason: str
    text: str = ""
    split: str = ""

    @property
    def kind(self) -> str:
        """The reason without its details, for counting."""
        return self.reason.partition(" (")[0]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for one line of `quarantine.jsonl`."""
        return asdict(self)


class RowFault(Exception):
    """A row cannot be used; the message says why, with details in brackets at the end: `span outside the text (got 12 to 40 of 30)`."""


@dataclass(frozen=True)
class Chunk:
    """Neighbouring rows.

    Args:
        rows: Their numbers, from 1.
        cells: Their cells by position of the column; those of JSON keep their mixed types.
        files: The file of each row, where the source is a folder.
    """

    rows: np.ndarray
    cells: dict[int, Cells]
    files: list[str] | None = None


@dataclass
class Reading:
    """An opened source.

    Args:
        columns: Names of the columns; '0', '1', ... where the file names none.
        chunks: Called with the positions of the wanted columns; yields chunks in constant memory. Can be called again.
        bad: Rows that could not be parsed; grows while chunks are taken, and starts anew with each call of `chunks`.
        notes: Choices that were made, in words.
        facts: Format, encoding and header, for `data.json`.
    """

    columns: list[str]
    chunks: Callable[[Sequence[int]], Iterator[Chunk]]
    bad: list[BadRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def excerpt(cell: object) -> str:
    """Return the start of a cell, fit to be shown and written as UTF-8."""
    text = "" if cell is None else str(cell)
    shown = text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"
    return shown.replace(UNDECODABLE, "\ufffd").encode("utf-8", "replace").decode("utf-8")
