"""What is kept of a run that writes text: samples by the tuned and the untuned model, references, scores of what it writes."""

from __future__ import annotations

from typing import Any

import numpy as np

from luthier.core.work import Parts
from luthier.data.batches import evaluation_order
from luthier.data.prepared import PreparedSplit, Row
from luthier.metrics.found import Found
from luthier.metrics.joined import Joined
from luthier.metrics.likelihoods import Likelihoods
from luthier.tasks.task import Work, WritingWork
from luthier.training.inference import run_batches

REFERENCE_TOKENS = 8
TOP = 8
SAMPLE_TOKENS = 64
TOKENS_AT_ONCE = 2048  # of the openings that are written from together


def sample_texts(work: WritingWork, parts: Parts, split: PreparedSplit, *, num: int, most_tokens: int, device: str) -> list[dict[str, Any]]:
    """Return openings of some rows, how they go on, and what the model writes.

    Args:
        work: The task at work.
        parts: Its modules.
        split: Rows that were held out.
        num: How many.
        most_tokens: Most tokens to write.
        device: Device of the modules.
    """
    rows = chosen_rows(split, num)
    texts = {id_: text for id_, text, _ in _written(work, parts, rows, min(most_tokens, SAMPLE_TOKENS), device)}
    return [
        {"id": row.id, "text": text, "expected": expected, "written": texts[row.id]} for row, text, expected in _shown(work, split, rows)
    ]


def text_references(work: WritingWork, parts: Parts, split: PreparedSplit, *, num: int, device: str) -> list[dict[str, Any]]:
    """Return openings with what the model writes, its most likely first tokens with their logits, and its loss on the row.

    Args:
        work: The task at work.
        parts: Its modules.
        split: The rows.
        num: How many.
        device: Device of the modules.
    """
    rows = chosen_rows(split, num)
    found = {id_: (text, logits_V) for id_, text, logits_V in _written(work, parts, rows, REFERENCE_TOKENS, device)}
    outputs = list(run_batches(work.outputs, parts, [work.collate([row]) for row in rows], device=device))
    lines = []
    for (row, text, _), output in zip(_shown(work, split, rows), outputs, strict=True):
        written, logits_V = found[row.id]
        top = np.argsort(-logits_V, kind="stable")[:TOP]
        line = {"id": row.id, "text": text, "tokens": work.opening(row).windows[0].tolist(), "label": written}
        loss = float(output.nats_B[0] / output.tokens_B[0])
        lines.append(line | {"loss": loss, "top_tokens": top.tolist(), "logits": [float(logits_V[token]) for token in top]})
    return lines


def with_texts(work: Work, parts: Parts, split: PreparedSplit, found: Found, *, device: str) -> Found:
    """Return what was found of a split with the scores of texts that the model writes for some of its rows, where its task scores any.

    Nothing is drawn: where the task draws, the most likely answer is scored.

    Args:
        work: The task at work.
        parts: Its modules.
        split: The rows.
        found: What was found of all of them.
        device: Device of the modules.
    """
    if not isinstance(work, WritingWork) or not work.written_rows:
        return found
    rows, plain = chosen_rows(split, work.written_rows), work.writing(temperature=0.0)
    openings = [work.opening(row) for row in rows]
    lengths_N = np.array([len(opening.windows[0]) for opening in openings])
    orders = evaluation_order(lengths_N, max_tokens=TOKENS_AT_ONCE)
    batches = (work.prompted([openings[place] for place in order]) for order in orders)
    texts = {id_: text for one in run_batches(plain.written, parts, batches, device=device, alone=True) for id_, text, _ in one}
    assert isinstance(found, Likelihoods)
    return Joined(found, work.scored(rows, [texts[row.id] for row in rows]))


def chosen_rows(split: PreparedSplit, num: int) -> list[Row]:
    """Return some rows, evenly spread."""
    return [split.row(int(place)) for place in np.unique(np.linspace(0, len(split) - 1, min(len(split), num)).astype(int))] if num else []


def _written(work: WritingWork, parts: Parts, rows: list[Row], most_tokens: int, device: str) -> list[tuple[int, str, np.ndarray]]:
    """Write from each row's opening, greedily whatever the task's settings, each by itself: what is written depends on no other row."""

    def write(modules: Parts, batch: Any) -> Any:
        return work.written(modules, batch, max_new_tokens=most_tokens, greedy=True)

    batches = [work.prompted([work.opening(row)]) for row in rows]
    return [one for found in run_batches(write, parts, batches, device=device, alone=True) for one in found]


def _shown(work: WritingWork, split: PreparedSplit, rows: list[Row]) -> list[tuple[Row, str, str]]:
    """Return each row with the text that opens it and the text that goes on."""
    place = {int(id_): index for index, id_ in enumerate(split.ids_N)}
    indices = [place[row.id] for row in rows]
    prompts, inputs = split.column("prompt", indices), split.column("prompt_input", indices)
    shown = []
    for number, row in enumerate(rows):
        opening, window = work.opening(row).windows[0], row.windows[0]
        text = work.tokenizer.decode(opening.tolist(), skip_special_tokens=True) if prompts is None else prompts[number]
        text += f"\n{inputs[number]}" if inputs is not None and inputs[number] else ""
        expected = work.tokenizer.decode(window[len(opening) : len(opening) + SAMPLE_TOKENS].tolist(), skip_special_tokens=True)
        shown.append((row, text, expected))
    return shown
