"""Rows of sentence-similarity: two texts that belong together or have a score, perhaps with a wrong text; each text encoded by itself.

N rows, W texts of all rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from luthier.data.encode import Encoded, encode
from luthier.data.prepared import Row
from luthier.data.reading import RowFault
from luthier.data.records import Record, column_of
from luthier.data.section import Column, DataSection
from luthier.tasks.text.records_preparation import Laid

if TYPE_CHECKING:
    import torch

FIRST_NAMES = (
    *("sentence1", "text1", "anchor", "query", "question", "premise", "first", "s1", "text", "sentence"),
    *("句子1", "文本1", "问题", "查询"),
)
SECOND_NAMES = (
    *("sentence2", "text2", "text_pair", "positive", "document", "passage", "answer", "response", "hypothesis", "second", "s2"),
    *("句子2", "文本2", "答案", "回答", "文档"),
)
NEGATIVE_NAMES = ("negative", "hard_negative", "负例")
SCORE_NAMES = ("score", "label", "similarity", "similarity_score", "分数", "标签")


def read_record(row: Record, data: DataSection, negative: Column | None) -> Record:
    """Return the two texts of a row, its score where it has one, and its wrong text where it has one.

    Args:
        row: The columns.
        data: Which of them are meant.
        negative: Column with the wrong text; none: found by its name, and it need not be there.

    Raises:
        RowFault: if the score is no number, or the wrong text is none.
    """
    first = column_of(row, data.text, FIRST_NAMES, key="data.text")
    second = column_of(row, data.text_pair, SECOND_NAMES, key="data.text_pair")
    wrong = column_of(row, negative, NEGATIVE_NAMES, key="task.negative", needed=False)
    if wrong is not None and not isinstance(wrong, str):
        raise RowFault(f"negative of a wrong type (got {type(wrong).__name__}, wanted text)")
    score = _score(column_of(row, data.label, SCORE_NAMES, key="data.label", needed=False))
    return {"text": first, "text_pair": second, "score": score, "negative": wrong if wrong and wrong.strip() else None}


def _score(written: Any) -> float | None:
    if written is None or (isinstance(written, str) and not written.strip()):
        return None
    try:
        score = float(written)
    except (TypeError, ValueError):
        raise RowFault(f"score of a wrong type (got {written!r}, wanted a number)") from None
    if not math.isfinite(score):
        raise RowFault("the score is not finite")
    return score


def lay_out(table: pa.Table, tokenizer: Any, longest: int) -> Laid:
    """Return rows with each of their texts as a window of its own; the target is the score, not a number where there is none."""
    records = [json.loads(record) for record in table["record"].to_pylist()]
    texts = zip(table["text"].to_pylist(), table["text_pair"].to_pylist(), (record["negative"] for record in records), strict=True)
    together = [[text for text in row if text is not None] for row in texts]
    scores_N = np.array([math.nan if record["score"] is None else record["score"] for record in records], np.float64)
    return Laid(table, encode_apart(tokenizer, together, max_length=longest), scores_N)


def encode_apart(tokenizer: Any, rows: Sequence[Sequence[str]], *, max_length: int) -> Encoded:
    """Return rows of several texts, each text encoded by itself as a window.

    Args:
        tokenizer: A fast tokenizer.
        rows: The texts of each row, one at least.
        max_length: Longest text in tokens; longer ones are cut.
    """
    flat = encode(tokenizer, [text for row in rows for text in row], max_length=max_length)
    count_N = np.array([len(row) for row in rows], np.int32)
    starts_N = np.cumsum(count_N) - count_N
    too_long_N = np.logical_or.reduceat(flat.too_long_N, starts_N) if len(rows) else flat.too_long_N
    return replace(flat, num_windows_N=count_N, too_long_N=too_long_N)


def places_of(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """Return which texts of a batch are first, second and wrong ones, and a number for each; `score` where any row has one.

    `negative_row` is the row that each wrong text belongs to. Equal texts have equal numbers in `key`, in every batch.
    """
    import torch

    count_N = np.array([len(row.windows) for row in rows])
    first_N = np.cumsum(count_N) - count_N
    brings_N = count_N > 2
    places = {"first": first_N, "negative": first_N[brings_N] + 2, "negative_row": np.flatnonzero(brings_N)}
    places |= {"second": first_N + 1} if count_N.min() > 1 else {}
    places["key"] = np.array([_key(window) for row in rows for window in row.windows], np.int64)
    found = {name: torch.from_numpy(numbers) for name, numbers in places.items()}
    if rows[0].target is not None and not all(math.isnan(row.target) for row in rows):
        found["score"] = torch.tensor([float(row.target) for row in rows], dtype=torch.float32)
    return found


def joined_places(batches: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the places of several batches whose texts stand one after the other."""
    import torch

    texts = np.cumsum([0, *(len(places["key"]) for places in batches)])
    rows = np.cumsum([0, *(len(places["first"]) for places in batches)])
    shifts = dict.fromkeys(("first", "second", "negative"), texts) | {"negative_row": rows}
    none = [0] * len(batches)
    return {
        name: torch.cat([places[name] + int(shift) for places, shift in zip(batches, shifts.get(name, none), strict=False)])
        for name in ("first", "second", "negative", "negative_row", "key", "score")
        if all(name in places for places in batches)
    }


def _key(window: np.ndarray) -> int:
    return int.from_bytes(blake2b(window.tobytes(), digest_size=8).digest(), "little", signed=True)
