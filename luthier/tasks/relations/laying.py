"""Rows of `relation-extraction` as the model reads them: tokens, the places of the opening markers, and the relation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from luthier.tasks.relations.encoding import encode_marked, own_markers
from luthier.tasks.relations.marks import read_marks
from luthier.tasks.text.preparation import targets_of
from luthier.tasks.text.records_preparation import Laid


def laid_relations(table: pa.Table, tokenizer: Any, longest: int, labels: Sequence[str], *, words: bool, typed: bool) -> Laid:
    """Return rows with their tokens, the places of the opening markers, and their relations.

    Args:
        table: Rows with marked `text`, `label` and `record`.
        tokenizer: A fast tokenizer, with the markers where these are tokens of their own.
        longest: Longest text in tokens.
        labels: Names of the relations.
        words: Whether markers are signs of the vocabulary.
        typed: Whether types are in the markers.
    """
    marked = [read_marks(text) for text in table["text"].to_pylist()]
    encoded, starts = encode_marked(tokenizer, marked, words=words, typed=typed, max_length=longest)
    records = pa.array([json.dumps({"starts": found}) for found in starts], pa.string())
    known = own_markers(tokenizer)
    types = [entity.type for one in marked for entity in (one.first, one.second) if entity.type]
    unknown = sum(f"<e1:{kind}>" not in known for kind in types) if typed and not words else 0
    notes = [f"entities of a type that training does not have, whose markers have none: {unknown}"] if unknown else []
    laid = table.set_column(table.column_names.index("record"), "record", records)
    return Laid(laid, encoded, targets_of(table["label"], labels, multi_label=False), notes=notes)
