"""Rows of questions with contexts and answers: read, counted, and laid out as windows."""

from __future__ import annotations

import json

import pyarrow as pa

from luthier.data.reading import RowFault
from luthier.data.records import Record, column_of, load_records
from luthier.data.rows import Rows
from luthier.data.section import DataSection
from luthier.tasks.text.answers_in_context import answers_in
from luthier.tasks.text.records_preparation import Laid
from luthier.tasks.text.span_windows import require_room, windows_of

QUESTION_NAMES = ("question", "query", "问题", "提问")
CONTEXT_NAMES = ("context", "passage", "paragraph", "text", "document", "上下文", "文章", "原文", "篇章")
ANSWER_NAMES = ("answers", "answer", "label", "答案", "回答")
START_NAMES = ("answer_start", "start")
IMPOSSIBLE_NAMES = ("is_impossible",)
COUNTS = "questions"


def load_questions(data: DataSection) -> Rows:
    """Read, hold apart and count the rows; see `load_records`.

    The facts say for each split how many rows there are, how many have no answer, and of how many the answer's place was guessed.
    """
    columns: dict[str, str] = {}

    def read(row: Record) -> Record:
        if not columns:
            columns.update(_columns_of(row, data))
        return _record(row, data)

    rows = load_records(data, read)
    for facts in rows.facts["sources"].values():
        facts["columns"] = columns
    rows.facts[COUNTS] = {name: _counted(table) for name, table in rows.splits.items()}
    for name, counts in rows.facts[COUNTS].items():
        if counts["unanswerable"]:
            rows.notes.append(f"{name}: {counts['unanswerable']} of {counts['rows']} questions have no answer in their context")
        if counts["guessed"]:
            what = "answers stand in their context more than once, and nothing says where: the first place is taken"
            rows.notes.append(f"{name}: {counts['guessed']} {what} (answer_start says it)")
    return rows


def lay_out_questions(table: pa.Table, tokenizer: object, longest: int, *, stride: int, longest_answer: int) -> Laid:
    """Encode the rows of a split; the first answer of a row is the one that is learnt.

    Args:
        table: Rows that `load_questions` read.
        tokenizer: A fast tokenizer.
        longest: Longest window in tokens.
        stride: Tokens of the context that windows share.
        longest_answer: Most tokens that an answer is given with.
    """
    require_room(tokenizer, longest, stride)
    kept = [json.loads(record) for record in table["record"].to_pylist()]
    answers = [(one["starts"][0], one["starts"][0] + len(one["answers"][0])) if one["answers"] else None for one in kept]
    texts = (table["text"].to_pylist(), table["text_pair"].to_pylist())
    found = windows_of(tokenizer, *texts, answers, max_length=longest, stride=stride, longest_answer=longest_answer)
    said = {
        "questions leave no room for a context and were cut at their end": found.num_cut,
        "answers stand whole in no window and are learnt as none (a larger data.window_stride may hold them)": found.num_apart,
        f"answers have more than {longest_answer} tokens and cannot be given (task.max_answer_length)": found.num_long,
    }
    notes = [f"{number} {what}" for what, number in said.items() if number]
    return Laid(table, found.encoded, found.marks, notes=notes)


def _columns_of(row: Record, data: DataSection) -> dict[str, str]:
    """Return the names of the columns with question and context, by which a file to be answered is read later."""
    names = {name: name for name in row}
    return {
        "text": column_of(names, data.text, QUESTION_NAMES, key="data.text"),
        "text_pair": column_of(names, data.text_pair, CONTEXT_NAMES, key="data.text_pair"),
    }


def _record(row: Record, data: DataSection) -> Record:
    """Return question, context and answers of a row."""
    question = column_of(row, data.text, QUESTION_NAMES, key="data.text")
    context = column_of(row, data.text_pair, CONTEXT_NAMES, key="data.text_pair")
    written = column_of(row, data.label, ANSWER_NAMES, key="data.label")
    start = column_of(row, None, START_NAMES, key="answer_start", needed=False)
    impossible = column_of(row, None, IMPOSSIBLE_NAMES, key="is_impossible", needed=False)
    if not isinstance(context, str):
        raise RowFault(f"context of a wrong type (got {type(context).__name__}, wanted text)")
    given = answers_in(context, written, start, impossible=impossible)
    kept = {"context": context, "answers": given.texts, "starts": given.starts, "guessed": given.guessed}
    return {"text": question, "text_pair": context, **kept}


def _counted(table: pa.Table) -> dict[str, int]:
    kept = [json.loads(record) for record in table["record"].to_pylist()]
    return {"rows": len(kept), "unanswerable": sum(not one["answers"] for one in kept), "guessed": sum(one["guessed"] for one in kept)}
