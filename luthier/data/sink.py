"""Where answers go: JSONL, CSV, Parquet or Arrow, written chunk by chunk; a file appears whole or not at all."""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from luthier.core.errors import ConfigError, Fault
from luthier.core.names import did_you_mean

Answers = Sequence[dict[str, Any]]


class Sink(ABC):
    """Takes answers in their order; use it as a context, which closes it.

    Each answer has `row`, `text`, `label`, `probability` and `probabilities` (by label).
    """

    @abstractmethod
    def write(self, answers: Answers) -> None:
        """Write some answers."""

    @abstractmethod
    def close(self, *, complete: bool) -> None:
        """Close; an incomplete file is thrown away."""

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close(complete=kind is None)


class LineSink(Sink):
    """One JSON object a line, to an open stream or a file."""

    def __init__(self, stream: TextIO, path: Path | None = None) -> None:
        self._stream, self._path = stream, path

    @classmethod
    def at(cls, path: Path) -> LineSink:
        """Open a file."""
        return cls(_aside(path).open("w", encoding="utf-8"), path)

    def write(self, answers: Answers) -> None:
        """Write some answers and flush, so that a reader at the other end sees them."""
        self._stream.write("".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers))
        self._stream.flush()

    def close(self, *, complete: bool) -> None:
        """Close the file, if it is one."""
        if self._path is not None:
            self._stream.close()
            _appear(self._path, complete)


class RareSink(Sink):
    """A JSONL file that exists only if something is written to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sink: LineSink | None = None

    def write(self, answers: Answers) -> None:
        """Write some lines, opening the file at the first."""
        self._sink = self._sink or LineSink.at(self._path)
        self._sink.write(answers)

    def close(self, *, complete: bool) -> None:
        """Close the file, if there is one."""
        if self._sink is not None:
            self._sink.close(complete=complete)


class CsvSink(Sink):
    """CSV with the probabilities as JSON in one cell; cells that a spreadsheet would run as a formula are quoted with '."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream = _aside(path).open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._stream)
        self._columns: list[str] | None = None

    def write(self, answers: Answers) -> None:
        """Write some answers, the column names first."""
        for answer in answers:
            if self._columns is None:
                self._columns = list(answer)
                self._writer.writerow(self._columns)
            self._writer.writerow([_cell(answer[column]) for column in self._columns])

    def close(self, *, complete: bool) -> None:
        """Close the file."""
        self._stream.close()
        _appear(self._path, complete)


class TableSink(Sink):
    """Parquet or Arrow, with the probabilities as a struct of one number per label."""

    def __init__(self, path: Path, *, parquet: bool) -> None:
        self._path, self._parquet = path, parquet
        self._writer: Any = None
        self._schema: pa.Schema | None = None

    def write(self, answers: Answers) -> None:
        """Write some answers as one batch."""
        table = pa.Table.from_pylist(list(answers), schema=self._schema)
        if self._writer is None:
            self._open(table.schema)
        self._writer.write_table(table)

    def close(self, *, complete: bool) -> None:
        """Close the file; without any answer it has no columns."""
        if self._writer is None:
            self._open(pa.schema([]))
        self._writer.close()
        _appear(self._path, complete)

    def _open(self, schema: pa.Schema) -> None:
        self._schema = schema
        where = str(_aside(self._path))
        self._writer = pq.ParquetWriter(where, schema) if self._parquet else pa.ipc.new_file(where, schema)


ENDINGS = (".jsonl", ".csv", ".parquet", ".arrow")


def open_sink(path: str | Path) -> Sink:
    """Return the sink that the ending of a file name asks for.

    Raises:
        ConfigError: for another ending.
    """
    file = Path(path)
    ending = file.suffix.lower()
    if ending not in ENDINGS:
        fix = f"use one of {', '.join(ENDINGS)}; {did_you_mean(ending, ENDINGS)}"
        raise ConfigError([Fault("--out", f"cannot write '{file.name}': unknown ending '{ending}'", fix)])
    file.parent.mkdir(parents=True, exist_ok=True)
    if ending == ".csv":
        return CsvSink(file)
    if ending == ".jsonl":
        return LineSink.at(file)
    return TableSink(file, parquet=ending == ".parquet")


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _appear(path: Path, complete: bool) -> None:
    if complete:
        _aside(path).replace(path)
    else:
        _aside(path).unlink(missing_ok=True)


def _cell(value: Any) -> Any:
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@"):
        return "'" + value
    return value
