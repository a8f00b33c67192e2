"""Rows of texts with what is looked for in them and the spans that are it: read, counted, and laid out as windows.

T tokens of all windows of a row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from luthier.data.reading import RowFault, excerpt
from luthier.data.records import Record, column_of, load_records
from luthier.data.rows import Rows
from luthier.data.section import DataSection
from luthier.tasks.text.records_preparation import Laid
from luthier.tasks.text.span_windows import Marks, require_room, span_in, windows_of

TEXT_NAMES = ("content", "text", "sentence", "context", "文本", "内容", "正文")
PROMPT_NAMES = ("prompt", "type", "question", "提示", "类型")
SPAN_NAMES = ("result_list", "spans", "entities", "answers", "label", "labels", "片段")
COUNTS = "prompts"


def load_extractions(data: DataSection) -> Rows:
    """Read and hold apart the rows; see `load_records`."""
    columns: dict[str, str] = {}

    def read(row: Record) -> Record:
        if not columns:
            names = {name: name for name in row}
            columns["text"] = column_of(names, data.text, TEXT_NAMES, key="data.text")
            columns["text_pair"] = column_of(names, data.text_pair, PROMPT_NAMES, key="data.text_pair")
        text, prompt = row[columns["text"]], row[columns["text_pair"]]
        if not isinstance(text, str):
            raise RowFault(f"text of a wrong type (got {type(text).__name__}, wanted text)")
        spans, guessed = spans_in(text, column_of(row, data.label, SPAN_NAMES, key="data.label"))
        return {"text": text, "text_pair": prompt, "context": text, "prompt": prompt, "spans": spans, "guessed": guessed}

    rows = load_records(data, read)
    for facts in rows.facts["sources"].values():
        facts["columns"] = columns
    rows.facts[COUNTS] = {name: _counted(table) for name, table in rows.splits.items()}
    for name, counts in rows.facts[COUNTS].items():
        if counts["guessed"]:
            what = "rows have a span that stands in the text more than once, and nothing says where: the first place is taken"
            rows.notes.append(f"{name}: {counts['guessed']} {what} (start and end say it)")
    return rows


def spans_in(text: str, written: Any) -> tuple[list[tuple[int, int]], bool]:
    """Return where the spans of a row begin and end, in characters, in their order; and whether a place was guessed.

    Args:
        text: The text that they stand in.
        written: A list of `{"start", "end"}`, each perhaps with its `text`, of `[start, end]`, or of texts; also as JSON.

    Raises:
        RowFault: if a span is not in the text, or not where it is said to be.
    """
    if isinstance(written, str) and written.strip():
        try:
            written = json.loads(written)
        except ValueError:
            raise RowFault(f"spans of a wrong type (got {excerpt(written)!r}, wanted a list)") from None
    if not isinstance(written or [], list):
        raise RowFault(f"spans of a wrong type (got {type(written).__name__}, wanted a list)")
    spans = [_span_of(text, one) for one in written or []]
    guessed = any(isinstance(one, str) and text.count(one) > 1 for one in written or [])
    return sorted(set(spans)), guessed


def lay_out_extractions(table: pa.Table, tokenizer: object, longest: int, *, stride: int, longest_span: int) -> Laid:
    """Encode the rows of a split; a window learns the spans that it holds whole.

    Args:
        table: Rows that `load_extractions` read.
        tokenizer: A fast tokenizer.
        longest: Longest window in tokens.
        stride: Tokens of the text that windows share.
        longest_span: Most tokens of a span that is found.
    """
    require_room(tokenizer, longest, stride)
    texts, prompts = table["text"].to_pylist(), table["text_pair"].to_pylist()
    found = windows_of(tokenizer, prompts, texts, max_length=longest, stride=stride)
    ends = np.cumsum(found.encoded.num_windows_N)
    targets, num_apart, num_long = [], 0, 0
    for row, record in enumerate(table["record"].to_pylist()):
        lengths = found.encoded.window_lengths[ends[row] - found.encoded.num_windows_N[row] : ends[row]].tolist()
        spans = [(begin, end) for begin, end in json.loads(record)["spans"]]
        learnt_2T, held = _learnt(Marks.unpacked(found.marks[row], lengths), spans)
        targets.append(np.concatenate([found.marks[row], learnt_2T.ravel()]))
        num_apart += sum(span not in held for span in spans)
        num_long += sum(num > longest_span for num in held.values())
    said = {
        "prompts leave no room for a text and were cut at their end": found.num_cut,
        "spans stand whole in no window and are not learnt (a larger data.window_stride may hold them)": num_apart,
        f"spans have more than {longest_span} tokens and cannot be found (task.max_span_length)": num_long,
    }
    return Laid(table, found.encoded, targets, notes=[f"{number} {what}" for what, number in said.items() if number])


def _learnt(marks: Marks, spans: Sequence[tuple[int, int]]) -> tuple[np.ndarray, dict[tuple[int, int], int]]:
    """Return which tokens are the first and the last of a span `(2, T)`, and the tokens of each span that a window holds."""
    learnt, held = [], {}
    for begin_T, end_T in zip(marks.begins, marks.ends, strict=True):
        here_2T = np.zeros((2, len(begin_T)), np.int32)
        inside_C = np.flatnonzero(begin_T >= 0)
        offsets_C2 = np.stack([begin_T[inside_C], end_T[inside_C]], axis=1)
        for span in spans:
            tokens = span_in(offsets_C2, span)
            if tokens is not None:
                held[span] = tokens[1] - tokens[0] + 1
                here_2T[0, inside_C[tokens[0]]] = here_2T[1, inside_C[tokens[1]]] = 1
        learnt.append(here_2T)
    return np.concatenate(learnt, axis=1), held


def _span_of(text: str, one: Any) -> tuple[int, int]:
    if isinstance(one, str):
        start = text.find(one)
        if start < 0 or not one.strip():
            raise RowFault(f"span not in its text (got {one!r}, text {excerpt(text)!r})")
        return start, start + len(one)
    ends = (one.get("start"), one.get("end")) if isinstance(one, dict) else one
    if not isinstance(ends, list | tuple) or len(ends) != 2 or not all(isinstance(end, int) for end in ends):
        raise RowFault(f"span of a wrong type (got {one!r}, wanted start and end, in characters)")
    start, end = ends
    if not 0 <= start < end <= len(text):
        raise RowFault(f"span outside the text (got {start} to {end} of {len(text)})")
    wanted = one.get("text") if isinstance(one, dict) else None
    if wanted is not None and wanted != text[start:end]:
        raise RowFault(f"span not at its place (wanted {wanted!r} at {start} to {end}, got {text[start:end]!r})")
    return start, end


def _counted(table: pa.Table) -> dict[str, int]:
    kept = [json.loads(record) for record in table["record"].to_pylist()]
    return {"rows": len(kept), "without a span": sum(not one["spans"] for one in kept), "guessed": sum(one["guessed"] for one in kept)}
