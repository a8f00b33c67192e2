"""Text with delimiters (CSV, TSV), read by pyarrow in constant memory with every cell as a string."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv

from luthier.core.errors import ConfigError, DataError, Fault
from luthier.data.columns import are_numbers, has_known_name
from luthier.data.encoding import TextFile, examine, reading
from luthier.data.reading import BadRow, Chunk, Reading, excerpt
from luthier.data.section import DataSection

BLOCK = 1 << 19
MOST_COLUMNS = 4096
MANY_BREAKS = 100


@dataclass(frozen=True)
class Dialect:
    """How cells are written: what separates them, whether quotes enclose them, whether the first line names them."""

    delimiter: str
    quoting: bool
    header: bool = False


def read_delimited(source: str, section: DataSection, *, dialect: Dialect) -> Reading:
    """Open a CSV or TSV file.

    Args:
        source: The file.
        section: `delimiter`, `quoting`, `header` and `encoding` change what `dialect` says.
        dialect: The habits of the format; `header` is used where the columns are given as numbers.

    Raises:
        ConfigError: if the delimiter cannot be one.
        DataError: if there are no rows, or the file cannot be read as delimited text.
    """
    if section.delimiter is not None and (not section.delimiter.isascii() or section.delimiter in '"\r\n'):
        wanted = "wanted one ASCII character that is no quote and no line end"
        raise ConfigError([Fault("data.delimiter", f"got {section.delimiter!r}, {wanted}", "such as ',', ';', '|' or a tab")])
    file = examine(Path(source), section.encoding)
    quoting = dialect.quoting if section.quoting == "auto" else section.quoting
    found = Dialect(section.delimiter or dialect.delimiter, quoting)
    first = _first_row(file, found)
    header, why = _header(section, first, usual=dialect.header)
    columns = [name.strip() for name in first] if header else [str(number) for number in range(len(first))]
    notes = [*file.notes, *([f"{file.path.name}: {why}"] if why else [])]
    opened = Reading(columns, lambda wanted: _chunks(file, found, wanted, opened), notes=notes)
    opened.facts = {"encoding": file.encoding, "header": header, "delimiter": found.delimiter, "quoting": found.quoting}
    return opened


def _header(section: DataSection, first: list[str], *, usual: bool) -> tuple[bool, str]:
    """Decide whether the first line names the columns; returns the reason in words."""
    if section.header != "auto":
        return section.header, "" if section.header else "no header line (columns by number)"
    given = [column for column in (section.text, section.text_pair, section.label) if column is not None]
    by_number = are_numbers(given) if given else not has_known_name(first)
    if by_number and not usual:
        return False, "no header line (columns by number; data.header=true if there is one)"
    named = bool(given) and not are_numbers(given)
    return True, "" if named else "the first line names the columns (data.header=false if it does not)"


def _first_row(file: TextFile, dialect: Dialect) -> list[str]:
    for batch in _batches(file, dialect, None, []):
        if batch.num_rows:
            return [str(column[0].as_py()) for column in batch.columns]
    raise DataError(f"'{file.path}' has no rows", fix="name a file with rows in it")


def _chunks(file: TextFile, dialect: Dialect, wanted: Sequence[int], opened: Reading) -> Iterator[Chunk]:
    """Yield the wanted columns with row numbers that count the bad rows too."""
    skipped: list[BadRow] = []
    header = int(opened.facts["header"])
    taken = reported = 0
    opened.bad.clear()
    for batch in _batches(file, dialect, wanted, skipped):
        rows = _row_numbers(taken, batch.num_rows, skipped)
        taken += batch.num_rows
        opened.bad += [replace(bad, row=bad.row - header) for bad in skipped[reported:]]
        reported = len(skipped)
        start = int(header and len(rows) > 0 and rows[0] == 1)
        columns = [column.slice(start) for column in batch.columns]
        if dialect.quoting:
            _note_many_breaks(columns, rows[start:] - header, opened)
        yield Chunk(rows[start:] - header, dict(zip(wanted, columns, strict=True)))
    opened.bad += [replace(bad, row=bad.row - header) for bad in skipped[reported:]]


def _note_many_breaks(columns: Sequence[pa.Array], rows: np.ndarray, opened: Reading) -> None:
    """Say where a cell runs over so many lines that a quote may never have been closed, and so have swallowed rows."""
    for column in columns:
        breaks = pc.count_substring(column, "\n").to_numpy(zero_copy_only=False)
        if len(breaks) and breaks.max() > MANY_BREAKS:
            row = rows[int(breaks.argmax())]
            note = (
                f"row {row} holds {breaks.max():,} line breaks: if a quote is never closed there, rows are lost in it (data.quoting=false)"
            )
            opened.notes += [note] if note not in opened.notes else []


def _row_numbers(taken: int, count: int, skipped: list[BadRow]) -> np.ndarray:
    """Number `count` good rows after `taken` others, leaving out the numbers of the skipped ones."""
    places = np.arange(taken + 1, taken + count + 1)
    skips_before = np.array([bad.row for bad in skipped], dtype=np.int64) - np.arange(len(skipped))
    return places + np.searchsorted(skips_before, places, side="right")


def _batches(file: TextFile, dialect: Dialect, wanted: Sequence[int] | None, skipped: list[BadRow]) -> Iterator[pa.RecordBatch]:
    """Yield what pyarrow reads, the first line included; rows with a wrong number of cells go to `skipped`."""

    def skip(row: arrow_csv.InvalidRow) -> str:
        reason = f"wrong number of cells (got {row.actual_columns}, wanted {row.expected_columns})"
        skipped.append(BadRow(str(file.path), row.number, reason, excerpt(row.text)))
        return "skip"

    names = None if wanted is None else [f"f{position}" for position in wanted]
    with reading(file.path), file.open() as stream:
        try:
            yield from arrow_csv.open_csv(
                stream,
                read_options=arrow_csv.ReadOptions(
                    use_threads=False, block_size=max(BLOCK, 2 * file.longest_line), autogenerate_column_names=True
                ),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=dialect.delimiter,
                    quote_char='"' if dialect.quoting else False,
                    newlines_in_values=dialect.quoting,
                    invalid_row_handler=skip,
                ),
                convert_options=arrow_csv.ConvertOptions(
                    column_types={f"f{number}": pa.string() for number in range(MOST_COLUMNS)}, include_columns=names
                ),
            )
        except pa.ArrowInvalid as error:
            raise _unreadable(file, error) from None


def _unreadable(file: TextFile, error: pa.ArrowInvalid) -> DataError:
    message = str(error).splitlines()[0]
    if "Empty CSV" in message:
        return DataError(f"'{file.path}' has no rows", fix="name a file with rows in it")
    if "straddling" in message or "out of sync" in message:
        message = "a row with its line breaks is longer than 1 MB, most likely because a quote is opened and never closed"
    return DataError(
        f"'{file.path}' cannot be read as delimited text: {message}",
        fix="check data.delimiter; if quotes are ordinary characters in it, say data.quoting=false",
    )
