"""Answers for a file or a stream, a chunk at a time: memory does not grow with the number of rows."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from luthier.core import files, yaml
from luthier.core.run_folder import RunFolder
from luthier.core.work import Answer
from luthier.data.reading import BadRow
from luthier.data.records import stream_records
from luthier.data.section import DataSection
from luthier.data.sink import Sink
from luthier.data.stream import stream_lines, stream_rows
from luthier.serve.ensemble import EnsemblePredictor, first_run_of
from luthier.serve.named_labels import NamedLabels
from luthier.serve.predictor import Predictor
from luthier.tasks.task import RowWork

log = logging.getLogger("luthier")
MOST_SAID = 5


def predict_rows(
    predictor: Predictor | EnsemblePredictor | NamedLabels,
    source: str | BinaryIO,
    section: DataSection,
    sink: Sink,
    bad_sink: Sink | None = None,
) -> dict[str, int]:
    """Answer every row of a source and write the answers in their order.

    Args:
        predictor: What answers.
        source: A file name, or an open stream of lines.
        section: Which columns hold the texts.
        sink: Where answers go.
        bad_sink: Where rows that cannot be answered go, and why.

    Returns:
        Counts: `rows` answered and `bad_rows` left out.
    """
    bad: list[BadRow] = []
    notes: list[str] = []
    num_rows = num_bad = 0
    for table in _tables(predictor, source, section, bad, notes):
        while notes:
            log.info(notes.pop(0))
        sink.write(list(answered_rows(predictor, table)))
        num_rows += table.num_rows
        num_bad = _set_aside(bad, bad_sink, num_bad)
    return {"rows": num_rows, "bad_rows": _set_aside(bad, bad_sink, num_bad)}


def _tables(
    predictor: Predictor | EnsemblePredictor | NamedLabels,
    source: str | BinaryIO,
    section: DataSection,
    bad: list[BadRow],
    notes: list[str],
) -> Iterator[pa.Table]:
    work = getattr(predictor, "work", None)
    if isinstance(work, RowWork) and work.reads_columns:
        ask = work.question
        return stream_records(source, section, lambda row: ask(row, section), bad=bad, notes=notes)
    if isinstance(source, str):
        return stream_rows(source, section, bad=bad, notes=notes)
    return stream_lines(source, section, bad=bad, notes=notes)


def answered_rows(predictor: Predictor | EnsemblePredictor | NamedLabels, table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield one answer per row of a chunk, as it is written."""
    texts = table["text"].to_pylist()
    second = next((name for name in ("text_pair", "prompt_input") if name in table.column_names), None)
    pairs = table[second].to_pylist() if second is not None else None
    for row, text, answer in zip(table["row"].to_pylist(), texts, predictor.answer(texts, pairs), strict=True):
        yield answer_fields(row, text, answer)


def answer_fields(row: int, text: str, answer: Answer) -> dict[str, Any]:
    """Return one answer with the fields that every output has; probabilities in the order of the labels' names; a written text has none."""
    label, probabilities, uncertainty = answer
    if not probabilities:
        return {"row": row, "text": text, "label": label, **(uncertainty or {})}
    top = probabilities[label] if isinstance(label, str) else max(probabilities.values())
    ordered = {name: probabilities[name] for name in sorted(probabilities)}
    return {"row": row, "text": text, "label": label, "probability": top, **(uncertainty or {}), "probabilities": ordered}


def section_of(target: str | Path) -> DataSection:
    """Return the `data` section of a run, or of an ensemble's first, so that its columns are found again; defaults for a plain model."""
    run = RunFolder(first_run_of(target))
    data = yaml.load_file(run.recipe).get("data", {}) if run.recipe.is_file() else {}
    columns = files.read_json(run.data).get("sources", {}).get("train", {}).get("columns", {}) if run.data.is_file() else {}
    spoken = {key: columns[key] for key in ("messages", "system", "history") if key in columns}
    if spoken:
        data = {"messages": columns.get("messages"), "prompt": columns.get("prompt"), "prompt_input": columns.get("prompt_input")}
        return DataSection.model_validate({key: value for key, value in data.items() if value is not None})
    if "text_pair" in columns and data.get("text_pair") is None:  # found by their names
        data = {**data, "text": columns["text"], "text_pair": columns["text_pair"]}
    if "prompt" in columns:
        data = {**data, "text": columns["prompt"], "prompt_input": columns.get("prompt_input")}
    kept = ("text", "text_pair", "prompt_input", "header", "quoting", "delimiter")
    return DataSection.model_validate({key: data[key] for key in kept if key in data})


def _set_aside(bad: list[BadRow], bad_sink: Sink | None, said: int) -> int:
    for row in bad:
        said += 1
        if bad_sink is not None:
            bad_sink.write([row.as_dict()])
        if said <= MOST_SAID:
            log.warning("%s row %d has no answer: %s", row.file, row.row, row.reason)
    bad.clear()
    return said
