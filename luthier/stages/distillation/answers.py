"""The teacher's answers to the training rows, known before training: computed once and kept on disk, or read from a file.

N rows, B rows of a batch, C classes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from luthier.core import files
from luthier.core.errors import DataError, RunStopped
from luthier.core.work import Batch
from luthier.data.cache import content_key
from luthier.data.prepared import Prepared, PreparedSplit
from luthier.data.source import Load
from luthier.recipe import Recipe
from luthier.stages.distillation.teacher import FROM_FILE, Teacher, fingerprint_of_teacher
from luthier.stages.layout.prefix import FILL_TOKENS, filling_order
from luthier.training.inference import CORE_TOKENS, run_batches
from luthier.training.loop import Care
from luthier.training.precision import autocast
from luthier.training.speed import prefix_cache
from luthier.training.speed.prefix_cache import GIB, Layout, Piece, in_words

TOLD = "teacher logits"
LEAST = 1e-7  # of a probability in a file, where six digits are kept
Answers = Callable[[np.ndarray], Tensor]
"""Gives the scores of some rows of the training split, `(B, C)`."""


def telling(answers: Answers, load: Load) -> Load:
    """Return how a batch is loaded: with the teacher's scores of its rows among the targets."""

    def with_answers(rows: np.ndarray, epoch: int) -> Batch:
        batch = load(rows, epoch)
        return replace(batch, targets={**batch.targets, TOLD: answers(rows)})

    return with_answers


def stored_answers(recipe: Recipe, prepared: Prepared, teacher: Teacher, care: Care) -> tuple[Answers | None, str]:
    """Find or compute the teacher's scores of every training row; all processes come to the same.

    Args:
        recipe: The recipe, with `distill.teacher`.
        prepared: Encoded rows.
        teacher: Answers with classes.
        care: Device, precision, and the processes: process 0 computes, the others read.

    Returns:
        What gives them, and what was done; or None, and why there are none.
    """
    split = prepared.splits["train"]
    layout = Layout(np.ones(len(split), np.int64), len(prepared.labels), torch.float32)
    key = _key(recipe, prepared, care)
    folder, most = prefix_cache.folder_of(key), int(recipe.training.speed.prefix_cache_gib * GIB)

    def make() -> tuple[bool, str]:
        if prefix_cache.opened(folder, layout) is not None:
            return True, "reused"
        if why := prefix_cache.refusal(layout, most_bytes=most):
            return False, why
        started = time.perf_counter()
        try:
            prefix_cache.make(key, layout, _pieces(split, teacher, care), most_bytes=most)
        except (OSError, RunStopped) as error:
            return False, f"its answers cannot be written: {str(error).splitlines()[0]}"
        return True, f"made in {time.perf_counter() - started:.1f} s"

    is_there, said = care.world.shared(make() if care.world.rank == 0 else (False, ""))
    states = prefix_cache.opened(folder, layout) if is_there else None
    if not all(care.world.gathered(states is not None)):
        return None, said if not is_there else "its answers cannot be read by every process"
    assert states is not None
    return states.items, f"{len(split):,} answers, {in_words(layout.num_bytes)}, {said}"


def answers_in_file(path: str, prepared: Prepared, *, multi_label: bool) -> Answers:
    """Read the teacher's answers that `luthier predict` wrote: probabilities (or `logits`) by label, with the row of the training file.

    Args:
        path: A .jsonl file.
        prepared: Encoded rows.
        multi_label: Whether each label is a yes or no of its own.

    Raises:
        DataError: if it cannot be read, has other labels, or has no answer for a row.
    """
    split, where = prepared.splits["train"], f"distill.logits: {path}"
    found = {int(line["row"]): line for line in _lines(path) if isinstance(line, dict) and "row" in line}
    rows = split.column("row", np.arange(len(split)))
    assert rows is not None, "every prepared row knows where it was read"
    missing = [row for row in rows if int(row) not in found]
    if missing:
        what = f"the file has no answer for {len(missing)} of {len(rows)} training rows, such as row {missing[0]}"
        raise DataError(what, where=where, fix=FROM_FILE.replace("ROWS", "the training file"))
    texts = split.texts(np.arange(len(split)))
    scores_NC = np.empty((len(rows), len(prepared.labels)), np.float32)
    for place, (row, text) in enumerate(zip(rows, texts, strict=True)):
        line = found[int(row)]
        if line.get("text", text) != text:
            what = f"row {row} of the file has another text than the training rows: {str(line['text'])[:60]!r}"
            raise DataError(what, where=where, fix=FROM_FILE.replace("ROWS", "the training file"))
        scores_NC[place] = _scores(line, prepared.labels, multi_label, where)
    scores = torch.from_numpy(scores_NC)
    return lambda chosen: scores.index_select(0, torch.from_numpy(chosen))


def _scores(line: dict[str, Any], labels: tuple[str, ...], multi_label: bool, where: str) -> list[float]:
    given = line.get("logits", line.get("probabilities"))
    if not isinstance(given, dict) or set(given) != set(labels):
        got = ", ".join(map(str, given)) if isinstance(given, dict) else "none"
        what = f"the answer of row {line['row']} has the labels {got}; the rows have {', '.join(labels)}"
        raise DataError(what, where=where, fix="let a teacher answer that was trained on these labels")
    if "logits" in line:
        return [float(given[label]) for label in labels]
    kept = [min(max(float(given[label]), LEAST), 1 - LEAST) for label in labels]
    return [math.log(p / (1 - p)) if multi_label else math.log(p) for p in kept]


def _lines(path: str) -> list[Any]:
    file = Path(path).expanduser()
    if file.suffix != ".jsonl" or not file.is_file():
        what = f"no such file: {path}" if file.suffix == ".jsonl" else f"got {path}, wanted a .jsonl file"
        raise DataError(what, where="distill.logits", fix=FROM_FILE)
    try:
        return files.read_json_lines(file)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"the file cannot be read: {error}", where=f"distill.logits: {path}", fix=FROM_FILE) from error


def _pieces(split: PreparedSplit, teacher: Teacher, care: Care) -> Iterator[Piece]:
    """Let the teacher answer every row once, in batches of like length."""
    work = teacher.work
    orders = filling_order(split.longest_window_N, split.num_windows_N, CORE_TOKENS if care.device == "cpu" else FILL_TOKENS)
    batches = (work.collate([split.row(int(row)) for row in rows]) for rows in orders)
    with autocast(care.precision, care.device):
        answers = run_batches(work.outputs, teacher.parts, batches, device=care.device)
        for rows, outputs in zip(orders, answers, strict=True):
            yield rows, teacher.in_order(torch.from_numpy(outputs.logits_BC))


def _key(recipe: Recipe, prepared: Prepared, care: Care) -> str:
    assert recipe.distill is not None and recipe.distill.teacher is not None
    split = prepared.splits["train"]
    return content_key(
        {
            "kind": TOLD,
            "teacher": fingerprint_of_teacher(recipe.distill.teacher),
            "rows": split.token_digest(),
            "data": prepared.facts.get("fingerprint"),
            "labels": prepared.labels,
            "precision": care.precision,
            "device": care.device.partition(":")[0],
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
    )
