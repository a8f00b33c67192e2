"""Texts to rows of tokens of which some are masked: a text file in blocks, rows of texts each by itself.

T tokens of a row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from luthier.data.columns import TEXT_NAMES
from luthier.data.documents import load_documents
from luthier.data.encode import Encoded
from luthier.data.reading import BadRow, RowFault, excerpt
from luthier.data.records import Record, column_of, load_records
from luthier.data.rows import Rows
from luthier.data.section import Column, DataSection
from luthier.data.words import WordMarks
from luthier.tasks.text.masking import BEGINS, GOES_ON, NEVER
from luthier.tasks.text.records_preparation import Laid
from luthier.tasks.text.unlearnt import refuse_unlearnt, unlearnt

CHUNK = 4096
Blocks = Literal["auto"] | bool


@dataclass(frozen=True)
class Stretch:
    """What becomes one row.

    Args:
        index: Which text it is of, from 0.
        tokens_T: Its tokens, without special ones around them.
        marks_T: What `masking` may do with each.
        is_whole: Whether it is all of its text.
    """

    index: int
    tokens_T: np.ndarray
    marks_T: np.ndarray
    is_whole: bool


@dataclass(frozen=True)
class Laying:
    """How texts become rows.

    Args:
        tokenizer: A fast tokenizer.
        longest: Most tokens of a row, special ones included.
        blocks: Whether texts are laid end to end in blocks of that length; otherwise each begins a row, and a long one goes on in others.
        segmented: Whether the rows say which words their texts have.
    """

    tokenizer: Any
    longest: int
    blocks: bool
    segmented: bool = False

    def stretches(self, table: pa.Table) -> Iterator[Stretch]:
        """Yield what becomes rows, in order."""
        room = self.longest - int(self.tokenizer.num_special_tokens_to_add(False))
        texts = list(self._tokens(table["text"].to_pylist(), self._words(table)))
        for index, (tokens_T, marks_T) in enumerate([self._end_to_end(texts)] if self.blocks else texts):
            for start in range(0, max(len(tokens_T), 1), room):
                whole = len(tokens_T) <= room and not self.blocks
                yield Stretch(index, tokens_T[start : start + room], marks_T[start : start + room], whole)

    def edges(self) -> tuple[list[int], list[int]]:
        """Return what stands before and behind a text: `[CLS]` and `[SEP]`."""
        whole = self._encoded(["a"], special=True)[0]
        inside = [place for place, special in enumerate(whole.special_tokens_mask) if not special]
        return whole.ids[: inside[0]], whole.ids[inside[-1] + 1 :]

    def _tokens(self, texts: list[str], words: list[list[str]] | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        marks = WordMarks.of(self.tokenizer)
        for start in range(0, len(texts), CHUNK):
            for place, encoding in enumerate(self._encoded(texts[start : start + CHUNK], special=False, offsets=words is not None), start):
                tokens_T = np.asarray(encoding.ids, np.int32)
                begins_T = marks.begins_V[tokens_T]
                if words is None:
                    begins_T[1:] &= ~marks.open_V[tokens_T[:-1]]
                else:
                    begins_T = begins_of(texts[place], words[place], encoding.offsets)
                marks_T = np.where(begins_T, BEGINS, GOES_ON).astype(np.int8)
                marks_T[marks.special_V[tokens_T] | (tokens_T == self.tokenizer.unk_token_id)] = NEVER
                yield tokens_T, marks_T

    def _end_to_end(self, texts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """Return texts as one, with what ends a text between them."""
        end = self.tokenizer.sep_token_id if self.tokenizer.sep_token_id is not None else self.tokenizer.eos_token_id
        between = np.asarray([] if end is None else [end], np.int32)
        tokens = [part for tokens_T, _ in texts for part in (tokens_T, between)]
        marks = [part for _, marks_T in texts for part in (marks_T, np.full(len(between), NEVER, np.int8))]
        return np.concatenate(tokens[:-1]), np.concatenate(marks[:-1])

    def _words(self, table: pa.Table) -> list[list[str]] | None:
        return [json.loads(record)["words"] for record in table["record"].to_pylist()] if self.segmented else None

    def _encoded(self, texts: list[str], *, special: bool, offsets: bool = False) -> list[Any]:
        backend = self.tokenizer.backend_tokenizer
        backend.no_padding()
        backend.no_truncation()
        encode = backend.encode_batch if offsets else backend.encode_batch_fast
        return list(encode(texts, add_special_tokens=special))


def load_texts(data: DataSection, words: Column | None) -> Rows:
    """Read the texts of a recipe; labels are not looked at.

    Args:
        data: The `data` section.
        words: Column with the words of each text, where there is one.
    """
    return load_documents(data) if words is None else load_records(data, lambda row: _with_words(row, data, words))


def in_blocks(blocks: Blocks, rows: Rows) -> bool:
    """Return whether texts are laid end to end: where the recipe leaves it open, a text file is and rows of texts are not."""
    return any(facts["format"] == "text" for facts in rows.facts["sources"].values()) if blocks == "auto" else blocks


def lay_out(table: pa.Table, laying: Laying, numbers: count[int], data: DataSection) -> Laid:
    """Return the rows of one split; those with nothing to mask are left out.

    Args:
        table: Texts, as `load_texts` gave them.
        laying: How they become rows.
        numbers: Gives the sample ids.
        data: Says how many rows may be left out.

    Raises:
        DataError: if too many are.
    """
    kept, bad, number = list[Stretch](), list[BadRow](), table["row"].to_pylist()
    for stretch in laying.stretches(table):
        if (stretch.marks_T != NEVER).any():
            kept.append(stretch)
        else:
            reason = unlearnt("no token but special and unknown ones")
            bad.append(BadRow("", number[stretch.index], reason, excerpt(laying.tokenizer.decode(stretch.tokens_T))))
    refuse_unlearnt(bad, len(bad) + len(kept), data, source="data")
    before, behind = laying.edges()
    rows = [np.array([*before, *stretch.tokens_T, *behind], np.int32) for stretch in kept]
    marks = [np.pad(stretch.marks_T, (len(before), len(behind)), constant_values=NEVER) for stretch in kept]
    lengths = np.array([len(row) for row in rows], np.int32)
    encoded = Encoded(np.concatenate(rows), lengths, np.ones(len(rows), np.int32), np.zeros(len(rows), bool))
    return Laid(_table(table, kept, laying, numbers), encoded, marks, bad, _notes(kept, laying, len(bad)))


def begins_of(text: str, words: list[str], offsets: list[tuple[int, int]]) -> np.ndarray:
    """Return whether each token begins one of the words of a text, `(T,)`.

    Args:
        text: The text.
        words: Its words, in order.
        offsets: Where each token stands in the text.
    """
    starts, end = [], 0
    for word in words:
        starts.append(text.index(word, end))
        end = starts[-1] + len(word)
    owners_T = np.searchsorted(starts, [start for start, _ in offsets], side="right")
    return np.diff(owners_T, prepend=-1) != 0


def _with_words(row: Record, data: DataSection, words: Column) -> Record:
    """Return the text of a row, and its words."""
    text = column_of(row, data.text, TEXT_NAMES, key="data.text")
    found = column_of(row, words, (), key="task.words")
    listed = found.split() if isinstance(found, str) else found
    if not isinstance(listed, list) or not all(isinstance(word, str) and word.strip() for word in listed):
        raise RowFault(f"words of a wrong type (got {type(found).__name__}, wanted words with spaces between, or a list of them)")
    if isinstance(text, str) and "".join(text.split()) != "".join("".join(listed).split()):
        raise RowFault(f"the words are not those of the text (got {excerpt(' '.join(listed))!r})")
    return {"text": text, "words": [word.strip() for word in listed]}


def _table(table: pa.Table, kept: list[Stretch], laying: Laying, numbers: count[int]) -> pa.Table:
    """Return the columns of the rows that are used; of a row that is not a whole text, the text that it holds."""
    indices = [stretch.index for stretch in kept]
    read = table["text"].to_pylist()
    texts = [read[stretch.index] if stretch.is_whole else laying.tokenizer.decode(stretch.tokens_T) for stretch in kept]
    columns = {"id": pa.array([next(numbers) for _ in kept], pa.int64()), "text": pa.array(texts, pa.string())}
    if laying.blocks:
        return pa.table({**columns, "row": pa.array(range(1, len(kept) + 1), pa.int64())})
    others = [name for name in ("row", "slice") if name in table.column_names]
    taken = table.select(others).take(pa.array(indices, pa.int64()))
    return pa.table({**columns, **{name: taken[name] for name in others}})


def _notes(kept: list[Stretch], laying: Laying, num_bad: int) -> list[str]:
    if laying.blocks:
        return [f"texts end to end in {len(kept):,} blocks of {laying.longest} tokens (task.blocks)"]
    longer = len({stretch.index for stretch in kept if not stretch.is_whole})
    said = [f"{longer:,} texts are longer than {laying.longest} tokens and go on in rows of their own (data.max_length)"] if longer else []
    return [*said, f"{num_bad:,} rows left out: nothing to learn"] if num_bad else said
