"""Rows with choices: a context, a question, the choices, and which of them is right, in the forms in which they are handed about.

N rows, W windows: one for each choice of each row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from luthier.data.columns import shown
from luthier.data.encode import Encoded, encode
from luthier.data.reading import RowFault
from luthier.data.records import Record, column_of
from luthier.data.section import DataSection

CONTEXT_NAMES = ("context", "article", "passage", "premise", "paragraph", "ctx", "sent1", "text", "文章")
QUESTION_NAMES = ("question", "sent2", "query", "goal", "prompt", "sentence", "问题")
ANSWER_NAMES = ("answer", "label", "answerkey", "answer_key", "correct", "correct_answer", "answer_idx", "gold", "target", "答案")
LIST_NAMES = ("choices", "options", "endings", "candidates", "answers", "选项")
NUMBERED = re.compile(r"(choice|ending|option|answer|sol|candidate)[ _-]?(\d+|[a-j])")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
Reading = Literal["auto", "text", "letter", "number"]


@dataclass(frozen=True)
class Asked:
    """What a row asks.

    Args:
        text: The context, or the question where there is no context.
        choices: The choices, two or more, all different.
        question: The question about the context, where there is one; an ending of it is a choice.
    """

    text: str
    choices: tuple[str, ...]
    question: str | None = None

    @property
    def seconds(self) -> list[str]:
        """What stands beside the text in the window of each choice."""
        return [choice if self.question is None else f"{self.question} {choice}" for choice in self.choices]

    @property
    def pair(self) -> str:
        """Question and choices as one text, as JSON: what `asked` reads."""
        written: Any = list(self.choices) if self.question is None else {"question": self.question, "choices": list(self.choices)}
        return json.dumps(written, ensure_ascii=False)

    def as_record(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class AnswerRule:
    """How the answer of a row names a choice.

    Args:
        reading: text, letter (A for the first), number, or auto: whichever of them it can be, if that is one choice alone.
        first: Number of the first choice.
    """

    reading: Reading = "auto"
    first: int = 0

    def place(self, answer: Any, choices: Sequence[str], names: Sequence[str] | None = None) -> int:
        """Return the place of the right choice, from 0.

        Args:
            answer: The cell.
            choices: The choices.
            names: What the row itself calls them, where it says; such a name goes before everything else.

        Raises:
            RowFault: if it is none of them, or could be several.
        """
        if answer is None or isinstance(answer, (bool, list, dict)) or not str(answer).strip():
            raise RowFault(f"no answer (got {answer!r})")
        said = str(int(answer)) if isinstance(answer, float) and answer.is_integer() else str(answer).strip()
        if names is not None and said in names:
            return list(names).index(said)
        found = {kind: place for kind in ("text", "letter", "number") if (place := self._read(said, kind, choices)) is not None}
        if self.reading != "auto":
            found = {kind: place for kind, place in found.items() if kind == self.reading}
        if not found:
            raise RowFault(f"answer not among the choices (got {said!r}; numbers count from {self.first}; choices: {shown(choices)})")
        if len(set(found.values())) > 1:
            read = " and ".join(f"the {kind} of {choices[place]!r}" for kind, place in found.items())
            raise RowFault(f"answer that can be read in several ways (got {said!r}, {read}; say which: task.answer={next(iter(found))})")
        return next(iter(found.values()))

    def _read(self, said: str, kind: str, choices: Sequence[str]) -> int | None:
        if kind == "text":
            return list(choices).index(said) if said in choices else None
        if kind == "letter":
            place = LETTERS.find(said.upper()) if len(said) == 1 else -1
        else:
            place = int(said) - self.first if said.isdecimal() else -1
        return place if 0 <= place < len(choices) else None


def read_asked(row: Record, data: DataSection, named: str | Sequence[str] | None) -> tuple[Asked, list[str] | None]:
    """Return what a row asks, and what it calls its choices where it says.

    Args:
        row: The columns of the row.
        data: Which columns hold context and question, where the recipe says so.
        named: Column with all choices, or the columns of the choices in their order; None: found by usual names.

    Raises:
        RowFault: if the row cannot be used.
        DataError: if a column is missing.
    """
    context = column_of(row, data.text, CONTEXT_NAMES, key="data.text", needed=False)
    question = None
    if data.text is None or data.text_pair is not None:
        question = column_of(row, data.text_pair, QUESTION_NAMES, key="data.text_pair", needed=False)
    if context is None and question is None:
        column_of(row, None, CONTEXT_NAMES + QUESTION_NAMES, key="data.text")
    for noun, cell in (("context", context), ("question", question)):
        if cell is not None and not isinstance(cell, str):
            raise RowFault(f"{noun} of a wrong type (got {type(cell).__name__}, wanted text)")
    texts = [text for text in (context, question) if text is not None and text.strip()]
    if not texts:
        raise RowFault("empty text")
    choices, names = _choices(row, named)
    return Asked(texts[0], tuple(choices), texts[1] if len(texts) > 1 else None), names


def asked(text: str, pair: str) -> Asked:
    """Return what is asked by a text and its choices: JSON, a list or `{"question": ..., "choices": [...]}`; or one choice a line.

    Raises:
        RowFault: if these are no choices.
    """
    try:
        said = json.loads(pair)
    except ValueError:
        said = pair.splitlines()
    question = said.get("question") if isinstance(said, dict) else None
    return Asked(text, tuple(_different(said.get("choices") if isinstance(said, dict) else said)), question)


def windows_of_choices(tokenizer: Any, rows: Sequence[Asked], *, max_length: int) -> Encoded:
    """Return rows as token ids: the text with each choice beside it is one window; what is too long is cut at the longer of the two.

    Args:
        tokenizer: A fast tokenizer.
        rows: What is asked.
        max_length: Longest window in tokens.
    """
    firsts = [row.text for row in rows for _ in row.choices]
    flat = encode(tokenizer, firsts, [second for row in rows for second in row.seconds], max_length=max_length)
    counts_N = np.array([len(row.choices) for row in rows], np.int32)
    owners_W = np.repeat(np.arange(len(rows)), counts_N)
    too_long_N = np.bincount(owners_W, flat.too_long_N, minlength=len(rows)) > 0
    return Encoded(flat.tokens, flat.window_lengths, counts_N, too_long_N, flat.type_ids)


def alike_when_cut(encoded: Encoded) -> np.ndarray:
    """Return of each row whether two of its choices are the same tokens, which happens where they were cut, `(N,)`."""
    ends_W = np.cumsum(encoded.window_lengths)
    windows = [encoded.tokens[end - length : end].tobytes() for end, length in zip(ends_W, encoded.window_lengths, strict=True)]
    ends_N = np.cumsum(encoded.num_windows_N)
    spans = zip(ends_N - encoded.num_windows_N, ends_N, strict=True)
    return np.array([len(set(windows[start:end])) < end - start for start, end in spans], bool)


def _choices(row: Record, named: str | Sequence[str] | None) -> tuple[list[str], list[str] | None]:
    if isinstance(named, str):
        return _listed(column_of(row, named, (), key="task.choices"))
    if named is not None:
        return _of_columns([column_of(row, name, (), key="task.choices") for name in named]), None
    lowered = {name.strip().lower(): name for name in row}
    whole = next((lowered[name] for name in LIST_NAMES if name in lowered), None)
    if whole is not None:
        return _listed(row[whole])
    families: dict[str, list[str]] = {}
    for name in lowered:
        if found := NUMBERED.fullmatch(name):
            families.setdefault(found[1], []).append(name)
    families["letters"] = [letter for letter in LETTERS.lower() if letter in lowered]
    columns = max(families.values(), key=len)
    if len(columns) < 2:
        column_of(row, None, LIST_NAMES, key="task.choices")
    return _of_columns([row[lowered[name]] for name in sorted(columns, key=_order)]), None


def _order(name: str) -> tuple[int, str]:
    """Return what columns such as choice2 and choice10 are sorted by."""
    digits = re.search(r"\d+$", name)
    return (int(digits[0]) if digits else -1, name)


def _listed(cell: Any) -> tuple[list[str], list[str] | None]:
    """Return the choices of one cell, and their names: a list, JSON of one, or texts with labels as ARC has them."""
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except ValueError:
            raise RowFault(f"choices of a wrong type (got the text {cell[:40]!r}, wanted a list)") from None
    if isinstance(cell, (list, tuple)) and cell and all(isinstance(one, Mapping) and "text" in one for one in cell):
        cell = {key: [one.get(key) for one in cell] for key in ("text", "label")}
    if isinstance(cell, Mapping) and "text" in cell:
        labels = cell.get("label")
        known = isinstance(labels, (list, tuple)) and len(labels) == len(cell["text"]) and None not in labels
        return _different(cell["text"]), [str(label).strip() for label in labels] if known and labels is not None else None
    return _different(cell), None


def _of_columns(cells: Sequence[Any]) -> list[str]:
    """Return the choices of several cells; empty ones at the end are choices that the row has not."""
    kept = list(cells)
    while kept and (kept[-1] is None or not str(kept[-1]).strip()):
        kept.pop()
    return _different(kept)


def _different(cells: Any) -> list[str]:
    if not isinstance(cells, (list, tuple)):
        raise RowFault(f"choices of a wrong type (got {type(cells).__name__}, wanted a list)")
    if any(cell is None or isinstance(cell, (bool, list, dict)) for cell in cells):
        raise RowFault("choice of a wrong type (wanted text)")
    choices = [str(cell).strip() for cell in cells]
    if len(choices) < 2:
        raise RowFault(f"fewer than two choices (got {len(choices)})")
    if not all(choices):
        raise RowFault(f"empty choice (got {shown(choices)})")
    twice = [choice for number, choice in enumerate(choices) if choice in choices[:number]]
    if twice:
        raise RowFault(f"equal choices (got {twice[0]!r} twice)")
    return choices
