"""Encoded rows on disk, memory-mapped: what every epoch, resume and evaluation reads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from luthier.core import files
from luthier.data.encode import Encoded

ID_SPAN = 10**12  # the rows of the task number n have ids from n times this on
NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Row:
    """One encoded row: its sample id, its windows of token ids, each `(T,)`, and what a task keeps of it beside, as JSON."""

    id: int
    windows: list[np.ndarray]
    type_ids: list[np.ndarray] | None
    target: Any
    record: str | None = None


class Ragged:
    """Numbers of N rows, as many as each row has.

    Args:
        offsets: Where each row begins, and the end, `(N + 1,)`.
        values: The numbers of all rows, one after the other.
    """

    def __init__(self, offsets: np.ndarray, values: np.ndarray) -> None:
        self._offsets, self._values = offsets, values

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return np.asarray(self._values[self._offsets[index] : self._offsets[index + 1]])

    def tobytes(self) -> bytes:
        """Return all of it as bytes, by which two of them are told apart."""
        return self._offsets.tobytes() + self._values.tobytes()


class PreparedSplit:
    """The rows of one split, read as they are needed.

    Args:
        table: What `encoded_table` made, in memory or memory-mapped.
        members: The splits of several tasks by name, where this one counts the rows of all of them, those of the first task first.
    """

    def __init__(self, table: pa.Table, members: Mapping[str, PreparedSplit] = NONE) -> None:
        self._table, self.members = table, members

    @classmethod
    def open(cls, path: Path) -> PreparedSplit:
        """Open a file that `write_split` wrote, memory-mapped."""
        with pa.memory_map(str(path)) as source:
            return cls(pa.ipc.open_file(source).read_all())

    @classmethod
    def joined(cls, members: Mapping[str, PreparedSplit]) -> PreparedSplit:
        """Return the rows of several tasks as one split, which has no targets; the ids of each task begin at a number of its own."""
        tables = []
        for number, split in enumerate(members.values()):
            kept = split._table.select(["num_tokens", "window_lengths", "tokens"])
            tables.append(kept.append_column("id", pa.array(split.ids_N + number * ID_SPAN)))
        return cls(pa.concat_tables(tables), members)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @cached_property
    def ids_N(self) -> np.ndarray:
        """Sample id of each row."""
        return self._column("id")

    @cached_property
    def num_tokens_N(self) -> np.ndarray:
        """Tokens of each row, all its windows together."""
        return self._column("num_tokens")

    @cached_property
    def longest_window_N(self) -> np.ndarray:
        """Length of each row's longest window, which decides its padding."""
        offsets, lengths = self._list("window_lengths")
        return np.maximum.reduceat(lengths, offsets[:-1]) if len(self) else np.zeros(0, np.int32)

    @cached_property
    def num_windows_N(self) -> np.ndarray:
        """How many windows each row has; one unless long texts were split."""
        return np.diff(self._windows[0])

    def token_digest(self) -> str:
        """Return a sha256 of the tokens of all rows, and of how they are split into windows."""
        digest = hashlib.sha256()
        for array in (*self._tokens, *self._windows, *(self._types or ())):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @cached_property
    def targets(self) -> Any:
        """Class numbers `(N,)`, yes and no `(N, C)`, or numbers for each of its tokens or windows."""
        column = self._table["target"].combine_chunks()
        if pa.types.is_large_list(column.type):
            return Ragged(*self._list("target"))
        if not pa.types.is_fixed_size_list(column.type):
            return column.to_numpy(zero_copy_only=False)
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(self), column.type.list_size)

    @cached_property
    def token_ids(self) -> np.ndarray:
        """Ids of the tokens that occur, sorted, each once."""
        return np.unique(self._tokens[1])

    def row(self, index: int) -> Row:
        """Return one row with its windows."""
        token_offsets, tokens = self._tokens
        window_offsets, lengths = self._windows
        first, end = window_offsets[index], window_offsets[index + 1]
        span = slice(token_offsets[index], token_offsets[index + 1])
        types = None if self._types is None else self._types[1][span]
        about = (self.targets[index], None if self._records is None else self._records[index].as_py())
        if end - first == 1:
            return Row(int(self.ids_N[index]), [tokens[span]], None if types is None else [types], *about)
        cuts = np.cumsum(lengths[first:end])[:-1]
        return Row(int(self.ids_N[index]), np.split(tokens[span], cuts), None if types is None else np.split(types, cuts), *about)

    def texts(self, indices: Any) -> list[str]:
        """Return the texts of some rows, as they were read."""
        return self._table["text"].take(pa.array(indices, pa.int64())).to_pylist()

    def column(self, name: str, indices: Any) -> list[str] | None:
        """Return one column of some rows as it was read, or None where there is no such column."""
        return self._table[name].take(pa.array(indices, pa.int64())).to_pylist() if name in self._table.column_names else None

    def pairs(self, indices: Any) -> list[str] | None:
        """Return the second texts of some rows, where rows are pairs."""
        return self.column("text_pair", indices)

    @cached_property
    def slices(self) -> np.ndarray | None:
        """Value of the slice column of each row, where there is one."""
        return np.asarray(self._table["slice"].to_pylist(), dtype=object) if "slice" in self._table.column_names else None

    @cached_property
    def _tokens(self) -> tuple[np.ndarray, np.ndarray]:
        return self._list("tokens")

    @cached_property
    def _windows(self) -> tuple[np.ndarray, np.ndarray]:
        return self._list("window_lengths")

    @cached_property
    def _types(self) -> tuple[np.ndarray, np.ndarray] | None:
        return self._list("type_ids") if "type_ids" in self._table.column_names else None

    @cached_property
    def _records(self) -> pa.Array | None:
        return self._table["record"].combine_chunks() if "record" in self._table.column_names else None

    def _column(self, name: str) -> np.ndarray:
        return self._table[name].combine_chunks().to_numpy(zero_copy_only=False)

    def _list(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        column = self._table[name].combine_chunks()
        return column.offsets.to_numpy(zero_copy_only=False), column.values.to_numpy(zero_copy_only=False)


@dataclass(frozen=True)
class Prepared:
    """A prepared data set: splits, label names, the tokenizer's folder, the facts for `data.json`, and those of each of several tasks."""

    folder: Path
    labels: tuple[str, ...]
    multi_label: bool
    max_length: int
    facts: dict[str, Any]
    splits: dict[str, PreparedSplit]
    from_cache: bool = False
    members: Mapping[str, Prepared] = field(default_factory=dict)

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer, with the characters it was taught."""
        return self.folder / "tokenizer"

    @property
    def quarantine(self) -> Path:
        """File with every row that was left out, and why."""
        return self.folder / "quarantine.jsonl"

    @classmethod
    def open(cls, folder: Path, *, from_cache: bool = False) -> Prepared:
        """Open a folder that `prepare` filled."""
        index = files.read_json(folder / "prepared.json")
        splits = {name: PreparedSplit.open(folder / f"{name}.arrow") for name in index["splits"]}
        facts = files.read_json(folder / "data.json")
        return cls(folder, tuple(index["labels"]), index["multi_label"], index["max_length"], facts, splits, from_cache)


def encoded_table(rows: pa.Table, encoded: Encoded, targets: np.ndarray | Sequence[np.ndarray]) -> pa.Table:
    """Return one split with its token ids and targets, every column in one chunk, so that reading copies nothing.

    Args:
        rows: Columns `id`, `row`, `text` and, where there are any, `text_pair`, `prompt`, `prompt_input`, `record` and `slice`.
        encoded: Token ids of the rows.
        targets: Class numbers `(N,)`, or 0/1 `(N, C)`; of text to be written, the first token that is learnt `(N,)`; or a list of
            N arrays, such as one number for each token.
    """
    names = [name for name in ("id", "row", "text", "text_pair", "prompt", "prompt_input", "record", "slice") if name in rows.column_names]
    columns: dict[str, pa.Array] = {name: _one_chunk(rows[name]) for name in names}
    row_offsets = pa.array(np.concatenate([[0], np.cumsum(encoded.num_tokens_N)]), pa.int64())
    columns["tokens"] = pa.LargeListArray.from_arrays(row_offsets, pa.array(encoded.tokens))
    window_offsets = pa.array(np.concatenate([[0], np.cumsum(encoded.num_windows_N)]), pa.int64())
    columns["window_lengths"] = pa.LargeListArray.from_arrays(window_offsets, pa.array(encoded.window_lengths))
    if encoded.type_ids is not None:
        columns["type_ids"] = pa.LargeListArray.from_arrays(row_offsets, pa.array(encoded.type_ids))
    columns["num_tokens"] = pa.array(encoded.num_tokens_N)
    columns["target"] = _target_column(targets)
    return pa.table(columns)


def _target_column(targets: np.ndarray | Sequence[np.ndarray]) -> pa.Array:
    if not isinstance(targets, np.ndarray):
        offsets = pa.array(np.concatenate([[0], np.cumsum([len(one) for one in targets])]), pa.int64())
        return pa.LargeListArray.from_arrays(offsets, pa.array(np.concatenate([np.zeros(0, targets[0].dtype), *targets])))
    if targets.ndim == 1:
        return pa.array(targets)
    return pa.FixedSizeListArray.from_arrays(pa.array(targets.ravel()), targets.shape[1])


def write_split(path: Path, table: pa.Table) -> None:
    """Write what `encoded_table` made as an Arrow file of one record batch."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined
