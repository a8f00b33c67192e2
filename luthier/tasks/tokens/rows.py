"""Rows of tagged words, or of texts with spans, as every row is kept: a text, the offsets of its words, and their tags in IOB2."""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from luthier.core.errors import DataError
from luthier.data.columns import TEXT_NAMES
from luthier.data.reading import RowFault
from luthier.data.records import Record, column_of, load_records
from luthier.data.rows import Rows
from luthier.data.section import DataSection
from luthier.tasks.tokens.column_files import is_tagged, open_tagged
from luthier.tasks.tokens.schemes import OUTSIDE, Pair, Scheme, as_iob2, find_scheme, pairs_of
from luthier.tasks.tokens.words import Manner, count_chinese, cut_at, joined, words_in

TOKEN_NAMES = ("tokens", "words", "token", "word", "chars", "characters", "词", "字符", "词语")
TAG_NAMES = ("tags", "ner_tags", "tag", "slots", "bio", "iob", "ner", "pos_tags", "pos", "upos", "chunk_tags", "slot_labels")
SPAN_NAMES = ("entities", "spans", "ents", "entity", "annotations", "实体")
OTHER_NAMES = ("labels", "label", "target", "标签", "标注")
STARTS, ENDS = ("start", "start_offset", "begin", "start_idx"), ("end", "end_offset", "stop", "end_idx")
KINDS, WRITTEN = ("label", "type", "tag", "entity_group", "entity", "category"), ("text", "word", "mention", "value")
MANY_LONG = 0.1  # of the Chinese words; above it they are words that spaces hold apart, not characters
Span = tuple[int, int, str]


@dataclass(frozen=True)
class Habits:
    """How the rows of a source are written.

    Args:
        scheme: The scheme of their tags.
        manner: How their texts have words.
    """

    scheme: Scheme
    manner: Manner


@dataclass
class _Seen:
    """What was seen in a first pass over a source."""

    pairs: Counter[Pair] = field(default_factory=Counter)
    has_spans: bool = False
    has_tags: bool = False
    chinese: int = 0
    long_chinese: int = 0

    @property
    def manner(self) -> Manner:
        return "words" if self.long_chinese > MANY_LONG * self.chinese else "characters" if self.has_tags else "pieces"


@dataclass(frozen=True)
class Tagged:
    """A row of words with tags, as it is written."""

    words: list[str]
    tags: list[str]


@dataclass(frozen=True)
class Spanned:
    """A text with spans by offsets, as it is written."""

    text: str
    spans: list[Span]


def habits_of(data: DataSection, *, scheme: str, names: Sequence[str] | None) -> Habits:
    """Read the training rows once (without any, the first that are named) and return how they are written.

    Args:
        data: Where the rows are.
        scheme: The scheme of their tags, or auto.
        names: Names of tags that are numbers.

    Raises:
        DataError: if the rows cannot be read.
    """
    seen = _Seen()

    def look(row: Record) -> Record:
        raw = raw_row(row, data, names)
        if isinstance(raw, Spanned):
            seen.has_spans = True
            return {"text": raw.text}
        seen.has_tags = True
        seen.pairs.update(pairs_of(raw.tags))
        chinese, long = count_chinese(raw.words)
        seen.chinese, seen.long_chinese = seen.chinese + chinese, seen.long_chinese + long
        return {"text": " ".join(raw.words)}

    first = next(name for name in ("train", "validation", "test") if getattr(data, name) is not None)
    only = {name: None for name in ("train", "validation", "test") if name != first}
    alone = data.model_copy(update={**only, "max_bad_rows": 1.0, "split": data.split.model_copy(update={"test": 0.0, "validation": 0.0})})
    load_records(alone, look, open_as=_opener(alone))
    if seen.has_spans and seen.has_tags:
        raise DataError("some rows have tags, and some have spans with offsets", where=f"data.{first}", fix="give one kind of rows")
    found = "iob2" if seen.has_spans else find_scheme(seen.pairs) if scheme == "auto" else scheme
    return Habits(found, seen.manner)  # type: ignore[arg-type]


def load_tagged(data: DataSection, habits: Habits, names: Sequence[str] | None) -> Rows:
    """Read the rows of a recipe; those whose tags or spans cannot be used are named.

    Args:
        data: Where the rows are and how they are split.
        habits: How they are written.
        names: Names of tags that are numbers.
    """
    cut: list[int] = []

    def read(row: Record) -> Record:
        try:
            raw = raw_row(row, data, names)
            return _of_tags(raw, habits) if isinstance(raw, Tagged) else _of_spans(raw, habits.manner, cut)
        except RowFault as fault:
            line = row.get("line")
            raise RowFault(f"{fault.args[0]} in the row of line {line}" if own and line else str(fault)) from None

    opener = _opener(data)
    own = opener is not None
    rows = load_records(data, read, open_as=opener)
    if cut:
        note = f"{len(cut)} rows have spans that begin or end inside of a word; the words are cut there"
        rows = replace(rows, notes=[*rows.notes, note])
    return rows


def _opener(data: DataSection) -> Any:
    return open_tagged if any(is_tagged(source, data) for source in (data.train, data.validation, data.test)) else None


def raw_row(row: Record, data: DataSection, names: Sequence[str] | None) -> Tagged | Spanned:
    """Return what a row says: words with tags, or a text with spans.

    Args:
        row: The columns of the row, by name.
        data: Which columns are meant, where they have no usual names.
        names: Names of tags that are numbers.

    Raises:
        RowFault: if the row says neither.
        DataError: if there is no such column.
    """
    told = _told(row, data)
    text = column_of(row, _named(data.text, row), TOKEN_NAMES, key="data.text", needed=False)
    if text is None:
        text = column_of(row, None, TEXT_NAMES, key="data.text")
    told = _plain(told)
    if isinstance(text, str) and isinstance(told, list) and all(isinstance(one, (Mapping, list, tuple)) for one in told):
        return Spanned(text, [_span(one, text) for one in told])
    if not isinstance(told, (str, list)):
        raise RowFault(f"tags of a wrong type (got {type(told).__name__}, wanted a list or words)")
    tags = told.split() if isinstance(told, str) else [_tag(one, names) for one in told]
    return _tagged(_plain(text), tags)


def _told(row: Record, data: DataSection) -> Any:
    """Return tags or spans: of the named column, else of one with a usual name."""
    named = _named(data.label, row)
    names = {name.strip().lower() for name in row}
    usual = next((some for some in (TAG_NAMES, SPAN_NAMES) if names & set(some)), OTHER_NAMES)
    found = column_of(row, named, usual, key="data.label")
    if found is None:
        raise RowFault("no tags")
    return found


def _named(column: str | int | None, row: Record) -> str | int | None:
    """Return which column is named; in a file of columns the number has been used up."""
    return None if "line" in row and "tokens" in row and column is not None and str(column).isdigit() else column


def _plain(value: Any) -> Any:
    """Return a list that is written as text, such as in a CSV cell, as a list."""
    if not (isinstance(value, str) and value.startswith("[") and value.endswith("]")):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(value)
        except (ValueError, SyntaxError):
            continue
        if isinstance(found, list):
            return found
    return value


def _tag(one: Any, names: Sequence[str] | None) -> str:
    if isinstance(one, str) and one.strip():
        return one.strip()
    if not isinstance(one, int) or isinstance(one, bool):
        raise RowFault(f"tag of a wrong type (got {one!r}, wanted a text)")
    if names is None:
        raise DataError(f"tags are numbers (got {one})", where="data.label", fix="name them from 0 on: task.tag_names=[O,B-PER,I-PER]")
    if not 0 <= one < len(names):
        raise RowFault(f"tag without a name (got {one}, and task.tag_names names 0 to {len(names) - 1})")
    return names[one]


def _tagged(text: Any, tags: list[str]) -> Tagged:
    if isinstance(text, str):
        words = text.split()
        characters = [character for character in text if not character.isspace()]
        words = characters if len(words) != len(tags) == len(characters) else words
    elif isinstance(text, list) and all(isinstance(word, str) for word in text):
        words = text
    else:
        raise RowFault(f"words of a wrong type (got {type(text).__name__}, wanted a list of texts)")
    if len(words) != len(tags):
        raise RowFault(f"not as many tags as words (got {len(tags)} tags for {len(words)} words)")
    kept = [(word.strip(), tag) for word, tag in zip(words, tags, strict=True) if word.strip()]
    if not kept:
        raise RowFault("no words")
    return Tagged([word for word, _ in kept], [tag for _, tag in kept])


def _span(one: Any, text: str) -> Span:
    """Return start, end and label of a span, checked against the text."""
    start: Any
    end: Any
    if isinstance(one, Mapping):
        start, end, label = (next((one[name] for name in names if name in one), None) for names in (STARTS, ENDS, KINDS))
        written = next((one[name] for name in WRITTEN if isinstance(one.get(name), str)), None)
    else:
        start, end, label = one if len(one) == 3 else (None, None, None)
        written = None
    if not _is_number(start) or not _is_number(end) or not isinstance(label, str) or not label.strip():
        raise RowFault(f"span without start, end and label (got {json.dumps(one, ensure_ascii=False, default=str)})")
    if not 0 <= start < end <= len(text):
        raise RowFault(f"span outside the text ({label} {start} to {end} of {len(text)} characters)")
    inside = text[start:end]
    if written is not None and written.strip() != inside.strip():
        raise RowFault(f"span is not the text that it names ({label} {start} to {end} is {inside!r}, not {written!r})")
    if not inside.strip():
        raise RowFault(f"span of white space ({label} {start} to {end})")
    start += len(inside) - len(inside.lstrip())
    return start, start + len(inside.strip()), label.strip()


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _of_tags(raw: Tagged, habits: Habits) -> Record:
    text, spans = joined(raw.words, habits.manner)
    return _record(text, spans, as_iob2(raw.tags, habits.scheme, raw.words))


def _of_spans(raw: Spanned, manner: Manner, cut: list[int]) -> Record:
    ordered = sorted(set(raw.spans))
    for one, other in zip(ordered, ordered[1:], strict=False):
        if other[0] < one[1]:
            what = f"{one[2]} {one[0]} to {one[1]}, {other[2]} {other[0]} to {other[1]}"
            raise RowFault(f"overlapping spans ({what}; a word has one tag)")
    words, num_cut = cut_at(words_in(raw.text, manner), [edge for start, end, _ in ordered for edge in (start, end)])
    if num_cut:
        cut.append(num_cut)
    tags = [OUTSIDE] * len(words)
    for start, end, label in ordered:
        inside = [place for place, (first, last) in enumerate(words) if start <= first and last <= end]
        for place in inside:
            tags[place] = f"{'B' if place == inside[0] else 'I'}-{label}"
    return _record(raw.text, words, tags)


def _record(text: str, spans: Sequence[tuple[int, int]], tags: list[str]) -> Record:
    return {"text": text, "starts": [start for start, _ in spans], "ends": [end for _, end in spans], "tags": tags}
