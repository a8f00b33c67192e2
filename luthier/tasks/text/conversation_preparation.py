"""Conversations to rows of tokens with the stretches that are learnt; what does not fit is cut, counted and named."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from luthier.data.reading import BadRow, RowFault, excerpt
from luthier.tasks.text.talk import Laid, Piece, Talk, has_marks


@dataclass
class Spoken:
    """Conversations of one split as the model reads them.

    Args:
        places: Row of the table that each is of; several are of one where the template changes earlier turns.
        laid: Their tokens and what is learnt, at most `max_length` tokens.
        too_long: Whether each was cut.
        bad: Conversations that cannot be used, and why.
    """

    places: list[int] = field(default_factory=list)
    laid: list[Laid] = field(default_factory=list)
    too_long: list[bool] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)

    @property
    def targets(self) -> list[np.ndarray]:
        """Where the learnt stretches of each begin and end, in turns."""
        return [np.asarray(laid.stretches, np.int32).ravel() for laid in self.laid]


def spoken_rows(table: pa.Table, talk: Talk, *, max_length: int, last: bool, split: str, source: str) -> Spoken:
    """Encode the conversations of a split.

    Args:
        table: What `load_dialogues` gave.
        talk: How conversations are put.
        max_length: Most tokens of a row.
        last: Learn the last answer alone.
        split: Name of the split.
        source: What to call the rows in the bad ones.
    """
    found, pieces, refused = Spoken(), _in_pieces(table, talk, last), {}
    waiting: list[tuple[int, list[Piece]]] = []
    laid: dict[tuple[int, int], Laid] = {}
    for place, rows in pieces.items():
        try:
            if isinstance(rows, RowFault):
                raise rows
            if any(has_marks(piece.text) for row in rows for piece in row):
                laid |= {(place, number): one for number, one in enumerate(talk.encoded(rows))}
            else:
                waiting += [(place, row) for row in rows]
        except RowFault as fault:
            refused[place] = str(fault)
    numbers: dict[int, int] = {}
    for (place, _), one in zip(waiting, talk.encoded([row for _, row in waiting]), strict=True):
        numbers[place] = numbers.get(place, -1) + 1
        laid[place, numbers[place]] = one
    for (place, _), one in sorted(laid.items(), key=lambda item: item[0]):
        kept = _within(one, max_length)
        if kept is None:
            refused.setdefault(place, f"no room for the answer (what comes before it has {max_length} tokens or more)")
            continue
        found.places.append(place)
        found.laid.append(kept)
        found.too_long.append(len(kept.tokens) < len(one.tokens))
    for place in set(found.places) & set(refused):
        refused.pop(place)  # another part of it is used
    numbers_read, texts = table["row"].to_pylist(), table["text"].to_pylist()
    found.bad += [BadRow(source, numbers_read[place], refused[place], excerpt(texts[place]), split) for place in sorted(refused)]
    return found


def _in_pieces(table: pa.Table, talk: Talk, last: bool) -> dict[int, list[list[Piece]] | RowFault]:
    found: dict[int, list[list[Piece]] | RowFault] = {}
    for place, record in enumerate(table["record"].to_pylist()):
        kept: dict[str, Any] = json.loads(record)
        try:
            found[place] = talk.learnt(kept["turns"], kept.get("tools", ()), last=last)
        except RowFault as fault:
            found[place] = fault
    return found


def _within(laid: Laid, most: int) -> Laid | None:
    """Return a conversation with the answers that fit whole; with the beginning of the first where none does; None where none begins."""
    if len(laid.tokens) <= most:
        return laid
    begun = [(start, min(end, most)) for start, end in laid.stretches if start < most]
    whole = [(start, end) for start, end in begun if (start, end) in laid.stretches]
    kept = whole or begun
    return Laid(laid.tokens[: kept[-1][1]], tuple(kept)) if kept else None
