"""Which column is the text and which the label: by name, by number from 0, or found by a well-known name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from luthier.core.errors import DataError
from luthier.core.names import nearest
from luthier.data.reading import Cells, Chunk, Reading
from luthier.data.section import Column, DataSection

TEXT_NAMES = (
    *("text", "sentence", "review", "content", "utterance", "comment", "message", "query", "question", "title", "document"),
    *("body", "tweet", "description", "input", "文本", "内容", "评论", "句子", "标题", "正文", "评价"),
)
LABEL_NAMES = (
    *("label", "labels", "class", "intent", "category", "sentiment", "target", "stars", "rating", "topic", "polarity", "output"),
    *("标签", "类别", "分类", "情感", "意图", "标注"),
)

PAIR_NAMES = ("sentence1", "sentence2", "text1", "text2", "anchor", "positive", "negative", "premise", "hypothesis", "score")


@dataclass(frozen=True)
class Columns:
    """Positions of the columns that matter; None where there is none."""

    text: int
    text_pair: int | None = None
    label: int | None = None
    group: int | None = None
    slice: int | None = None
    prompt: int | None = None
    prompt_input: int | None = None

    @property
    def positions(self) -> list[int]:
        """Every position once, in ascending order."""
        given = (self.text, self.text_pair, self.label, self.group, self.slice, self.prompt, self.prompt_input)
        return sorted({position for position in given if position is not None})


def are_numbers(columns: Iterable[Column]) -> bool:
    """Whether every column is given by number: an int, or a word of digits."""
    return all(isinstance(column, int) or column.isdigit() for column in columns)


def has_known_name(names: Iterable[str]) -> bool:
    """Whether one of the names is a usual one for a text or a label."""
    return any(name.strip().lower() in (*TEXT_NAMES, *LABEL_NAMES, *PAIR_NAMES) for name in names)


def resolve(reading: Reading, section: DataSection, *, source: str, need_label: bool = True, predicting: bool = False) -> Columns:
    """Find the columns of a recipe in an opened source.

    Args:
        reading: The source; a guess is added to its notes.
        section: What the recipe says of columns.
        source: What to call the source in messages.
        need_label: Whether a label must be there, or is not looked for.
        predicting: Whether only texts are wanted, nothing that they are held apart by or compared with.

    Raises:
        DataError: if a named column is not there, or one that is not named cannot be guessed.
    """

    def find(column: Column | None, key: str) -> int | None:
        return None if column is None else find_column(column, reading.columns, key=key, source=source)

    text, label = find(section.text, "data.text"), find(section.label, "data.label") if need_label else None
    if text is None or (need_label and label is None):
        text, label = _guess(reading, text, label, source=source, need_label=need_label)
    return Columns(
        text,
        text_pair=find(section.text_pair, "data.text_pair"),
        label=label,
        group=None if predicting else find(section.split.group_by, "data.split.group_by"),
        slice=None if predicting else find(section.slice_by, "data.slice_by"),
        prompt=None if predicting else find(section.prompt, "data.prompt"),
        prompt_input=find(section.prompt_input, "data.prompt_input"),
    )


def find_column(column: Column, names: Sequence[str], *, key: str, source: str) -> int:
    """Return the position of a column.

    Args:
        column: A name, or a number from 0 (a word of digits counts as a number where no column has it as its name).
        names: The columns that exist.
        key: Key of the recipe that named it.
        source: What to call the source in messages.

    Raises:
        DataError: if there is no such column.
    """
    if isinstance(column, str) and column.strip() in names:
        return names.index(column.strip())
    if are_numbers([column]) and int(column) < len(names) and int(column) >= 0:
        return int(column)
    close = nearest(str(column), names, limit=1)
    fix = f"{key}={close[0] if close else names[0]}" if names else None
    raise DataError(f"'{source}' has no column {column!r}; it has {shown(names)}", where=key, fix=_delimiter_hint(names) or fix)


def shown(names: Sequence[str]) -> str:
    """Return the names of columns for a message; long lists are cut."""
    listed = ", ".join(repr(name) for name in names[:20])
    return listed + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _delimiter_hint(names: Sequence[str]) -> str | None:
    """Suggest another delimiter where all the names landed in one column."""
    if len(names) != 1:
        return None
    found = next((mark for mark in ("\t", ";", "|", ",") if mark in names[0]), None)
    return f"data.delimiter={found!r}" if found else None


def _guess(reading: Reading, text: int | None, label: int | None, *, source: str, need_label: bool) -> tuple[int, int | None]:
    """Fill in the text and label columns that the recipe leaves open, and say so in the notes."""
    names = reading.columns
    given = (text, label)
    text = _well_known(names, TEXT_NAMES, taken=label) if text is None else text
    if need_label and label is None:
        label = _well_known(names, LABEL_NAMES, taken=text)
    if len(names) == 2 and need_label and (text is None or label is None):
        text, label = _of_two(reading, text, label)
    if len(names) == 1 and not need_label:
        text = 0
    if text is None or (need_label and label is None):
        key = "data.text" if text is None else "data.label"
        noun = "text" if text is None else "label"
        fix = _delimiter_hint(names) or f"say which with {key}={names[0]} (or by number from 0)"
        raise DataError(f"cannot tell which column of '{source}' is the {noun}; it has {shown(names)}", where=key, fix=fix)
    guesses = [("text", text, given[0]), ("label", label, given[1])]
    said = [f"{noun} = column {names[place]!r}" for noun, place, known in guesses if place is not None and known is None]
    reading.notes.append(f"{source}: {', '.join(said)} (guessed; data.text=... and data.label=... say otherwise)")
    return text, label


def _well_known(names: Sequence[str], known: Sequence[str], *, taken: int | None) -> int | None:
    lowered = [name.lower() for name in names]
    return next((lowered.index(name) for name in known if name in lowered and lowered.index(name) != taken), None)


def _of_two(reading: Reading, text: int | None, label: int | None) -> tuple[int, int]:
    """Of two columns the one with the longer texts is the text."""
    if text is None and label is None:
        chunk: Chunk | None = next(iter(reading.chunks([0, 1])), None)
        text = int(chunk is not None and _mean_length(chunk.cells[1]) > _mean_length(chunk.cells[0]))
    elif text is None:
        text = 1 - (label or 0)
    return text, 1 - text


def _mean_length(cells: Cells) -> float:
    if isinstance(cells, list):
        return sum(len(str(cell)) for cell in cells) / max(1, len(cells))
    if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
        return float(pc.mean(pc.utf8_length(cells)).as_py() or 0.0)
    return _mean_length(cells.to_pylist())
