"""Recipes of several tiny tasks of different kinds on one tiny model: an encoder, a decoder, or an encoder with a decoder."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import tiny
import tiny_decoder
import tiny_seq2seq

CLASSES = "text-classification"
ON_ENCODERS = (
    *(CLASSES, "ordinal-classification", "fill-mask", "intent-and-slots", "multiple-choice", "question-answering", "relation-extraction"),
    *("sentence-similarity", "span-extraction", "text-regression", "token-classification"),
)
SPLIT = {"validation": 0.2, "test": 0.2}


def name_of(task: str) -> str:
    """The name that a task has in these recipes."""
    return task.replace("-", "_")


def mixture(model: Path, folder: Path, tasks: Sequence[str], changes: Mapping[str, Any] | None = None, name: str = "run") -> dict[str, Any]:
    """A recipe of tasks on the tiny BERT, each with the rows of its contract test; changes by dotted key."""
    entries = []
    for task in tasks:
        rows = folder / task
        rows.mkdir(exist_ok=True)
        entries.append({"name": name_of(task), **_entry(task, rows)})
        entries[-1]["data"]["split"] = SPLIT
    return _of(entries, model, folder / name, changes)


def writers(model: Path, folder: Path, changes: Mapping[str, Any] | None = None, *, classes: bool = False) -> dict[str, Any]:
    """A recipe of two writing tasks on the tiny decoder, or of a classifier and one of them."""
    task = {"type": "text-generation", "max_new_tokens": 8, "samples": 2}
    rows = tiny_decoder.write_instructions(folder / "asked.jsonl", tiny_decoder.tiny_instructions(120))
    asked = {"name": "asked", "task": task, "data": {"train": str(rows), "split": SPLIT}}
    if classes:
        other: dict[str, Any] = {"name": "kind", "data": {"train": str(_write_kinds(folder / "kinds.csv")), "split": SPLIT}}
        return _of([other, asked], model, folder / "run", changes)
    plain = tiny_decoder.write_text(folder / "plain.txt", num_words=900)
    other = {"name": "plain", "task": task, "data": {"train": str(plain), "split": SPLIT, "max_length": 32}}
    return _of([asked, other], model, folder / "run", changes)


def translators(model: Path, folder: Path, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A recipe of a translation and of the initials of its words, both on the tiny T5."""
    pairs = tiny_seq2seq.tiny_pairs(120)
    initials = [(source, " ".join(word[0] for word in target.split())) for source, target in pairs]
    entries = []
    for name, task, rows, prefix in (("whole", "translation", pairs, "translate "), ("initials", "text-to-text", initials, "say ")):
        file = tiny_seq2seq.write_pairs(folder / f"{name}.jsonl", rows)
        settings = {"type": task, "prefix": prefix, "max_new_tokens": 10, "samples": 2, "written_rows": 8}
        entries.append({"name": name, "task": settings, "data": {"train": str(file), "split": SPLIT}})
    return _of(entries, model, folder / "run", changes)


def _of(entries: list[dict[str, Any]], model: Path, output: Path, changes: Mapping[str, Any] | None) -> dict[str, Any]:
    recipe = tiny.tiny_recipe(model, output, output, changes)
    del recipe["task"], recipe["data"]
    return {**recipe, "tasks": entries}


def _entry(task: str, folder: Path) -> dict[str, Any]:
    if task == CLASSES:
        return {"data": {"train": str(tiny.write_rows(folder / "rows.csv", tiny.tiny_rows(120)))}}
    if task == "ordinal-classification":
        settings = {"type": task}
        return {"task": settings, "data": {"train": str(tiny.write_rows(folder / "rows.csv", tiny.tiny_star_rows(120)))}}
    module = import_module(f"row_tasks.{name_of(task)}")
    data = {key.removeprefix("data."): value for key, value in module.CHANGES.items() if key.startswith("data.")}
    return {"task": module.CHANGES.get("task", task), "data": {**data, "train": str(module.write(folder))}}


def _write_kinds(path: Path) -> Path:
    """Write texts of the decoder's words, of which one tells the class."""
    dice, rows = random.Random(0), dict[str, str]()
    while len(rows) < 100:
        kind, word = dice.choice([("colour", "red"), ("animal", "cat")])
        words = [*dice.choices([word for word in tiny_decoder.WORDS if word not in ("red", "cat")], k=4), word]
        dice.shuffle(words)
        rows.setdefault(" ".join(words), kind)
    return tiny.write_rows(path, list(rows.items()))
