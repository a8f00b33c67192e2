"""Words and the text they make: joined with their offsets, and found again in any text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

Manner = Literal["characters", "words", "pieces"]
"""How a text has its words: split at spaces with every Chinese character by itself, split at spaces alone, or into runs of letters."""

CHINESE = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u3000-\u303f\uff00-\uff65\U00020000-\U0003134f"
ONE = re.compile(f"[{CHINESE}]")
RUN = re.compile(f"[{CHINESE}]+|[^{CHINESE}]+")
PIECE = re.compile(rf"[{CHINESE}]|(?:(?![{CHINESE}])\w)+|[^\w\s]")
LONE_STOP = re.compile(r"(?:^|\s)[.,;:!?)\]，。；：！？）](?:\s|$)")
MARKS = r"[^\w\s]"
AROUND = re.compile(rf"^(?P<before>{MARKS}*)(?P<word>.*?)(?P<after>{MARKS}*)$", re.DOTALL)
Spans = list[tuple[int, int]]


def count_chinese(words: Sequence[str]) -> tuple[int, int]:
    """Return how many words have a Chinese character, and how many of them have others beside it."""
    chinese = [word for word in words if ONE.search(word)]
    return len(chinese), sum(len(word) > 1 for word in chinese)


def joined(words: Sequence[str], manner: Manner) -> tuple[str, Spans]:
    """Return words as one text, and the offsets of each in it: a space between two, but none between Chinese characters.

    Args:
        words: Words, none of them empty.
        manner: With `words`, Chinese ones are apart by spaces too.
    """
    text, spans = "", []
    for word in words:
        if text and not (manner == "characters" and ONE.match(text[-1]) and ONE.match(word[0])):
            text += " "
        spans.append((len(text), len(text) + len(word)))
        text += word
    return text, spans


def words_in(text: str, manner: Manner) -> Spans:
    """Return the offsets of the words of a text.

    With `pieces` every mark and Chinese character is a word, and every run of letters and digits. Otherwise words are apart by spaces,
    with marks around them as words of their own, unless the text has been split into words before: then a stop stands alone.

    Args:
        text: Any text.
        manner: How the rows of the training had theirs.
    """
    if manner == "pieces":
        return [found.span() for found in PIECE.finditer(text)]
    was_split = LONE_STOP.search(text) is not None
    found: Spans = []
    for chunk in re.finditer(r"\S+", text):
        for start, end in _runs(chunk.group(), chunk.start()) if manner == "characters" else [chunk.span()]:
            is_one = manner == "characters" and end - start == 1
            found += [(start, end)] if was_split or is_one else _without_marks(text, start, end)
    return found


def _runs(chunk: str, offset: int) -> Spans:
    """Return Chinese characters one by one, and what is between them."""
    found: Spans = []
    for run in RUN.finditer(chunk):
        start, end = offset + run.start(), offset + run.end()
        found += [(place, place + 1) for place in range(start, end)] if ONE.match(run.group()) else [(start, end)]
    return found


def _without_marks(text: str, start: int, end: int) -> Spans:
    """Return a word, with each mark before and after it as a word of its own; marks inside stay."""
    parts = AROUND.match(text[start:end])
    assert parts is not None
    first, last = start + parts.end("before"), start + parts.start("after")
    marks_before, marks_after = [(place, place + 1) for place in range(start, first)], [(place, place + 1) for place in range(last, end)]
    return [*marks_before, *([(first, last)] if first < last else []), *marks_after]


def cut_at(spans: Spans, edges: Sequence[int]) -> tuple[Spans, int]:
    """Return words cut where something begins or ends inside of them, and how many were cut.

    Args:
        spans: Offsets of the words, ascending.
        edges: Where to cut.
    """
    wanted, found, cut = sorted(set(edges)), [], 0
    for start, end in spans:
        inside = [edge for edge in wanted if start < edge < end]
        cut += bool(inside)
        found += list(zip([start, *inside], [*inside, end], strict=True))
    return found, cut
