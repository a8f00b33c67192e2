"""Answers that stand in a context, read from a row in any of the usual forms and checked against the context."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from luthier.data.reading import RowFault, excerpt


class Given(NamedTuple):
    """Answers of one row.

    Args:
        texts: Their texts; none where the context has no answer.
        starts: Where each begins in the context, in characters.
        guessed: Whether one stands there more than once and nothing said which is meant.
    """

    texts: list[str]
    starts: list[int]
    guessed: bool = False


def answers_in(context: str, written: Any, start: Any = None, *, impossible: Any = None) -> Given:
    """Return the answers of a row, each with its place; one without a place is found where it first occurs.

    Args:
        context: The text that they stand in.
        written: A text, a list of texts or of `{"text", "answer_start"}`, or `{"text": [...], "answer_start": [...]}`; also as JSON.
        start: Place of a single text in a column of its own, or None.
        impossible: What the row says in `is_impossible`, or None.

    Raises:
        RowFault: if an answer is not in the context, or not where it is said to be.
    """
    given = [(text, place) for text, place in _pairs(written, start) if text.strip()]
    if given and str(impossible).strip().lower() in ("true", "1"):
        raise RowFault(f"an answer although is_impossible is true (got {given[0][0]!r})")
    placed = [_placed(context, text, place) for text, place in given]
    guessed = any(place is None and context.count(text) > 1 for text, place in given)
    return Given([text for text, _ in given], placed, guessed)


def _pairs(written: Any, start: Any) -> Iterator[tuple[str, int | None]]:
    """Yield each answer with its place, None where nothing says it."""
    if written is None:
        return
    if isinstance(written, str):
        inside = _from_json(written)
        yield from [(written, _place(start))] if inside is None else _pairs(inside, start)
    elif isinstance(written, dict):
        yield from _of_one(written.get("text"), written.get("answer_start"))
    elif isinstance(written, Sequence):
        for one in written:
            yield from _pairs(one, start if len(written) == 1 else None)
    else:
        raise RowFault(f"answers of a wrong type (got {written!r}, wanted a text, a list, or text and answer_start)")


def _from_json(written: str) -> Any:
    if not written.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(written)
    except ValueError:
        return None


def _of_one(texts: Any, starts: Any) -> Iterator[tuple[str, int | None]]:
    """Yield what `{"text": ..., "answer_start": ...}` says: of one answer, or lists of several."""
    texts = [texts] if isinstance(texts, str) else texts
    starts = starts if isinstance(starts, list | tuple) else [starts] * (1 if starts is not None else len(texts or ()))
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise RowFault(f"answers of a wrong type (got {texts!r}, wanted a text or a list of them)")
    if len(texts) != len(starts):
        raise RowFault(f"not one place for each answer (got {len(texts)} texts, {len(starts)} in answer_start)")
    yield from ((text, _place(start)) for text, start in zip(texts, starts, strict=True))


def _place(start: Any) -> int | None:
    if start is None or start == "":
        return None
    try:
        return int(start)
    except (TypeError, ValueError):
        raise RowFault(f"place of an answer of a wrong type (got {start!r}, wanted a number of characters)") from None


def _placed(context: str, text: str, start: int | None) -> int:
    if start is None:
        found = context.find(text)
        if found < 0:
            raise RowFault(f"answer not in its context (got {text!r}, context {excerpt(context)!r})")
        return found
    there = context[max(start, 0) : max(start, 0) + len(text)]
    if there != text or start < 0:
        raise RowFault(f"answer not at its place (wanted {text!r} at {start}, got {there!r})")
    return start
