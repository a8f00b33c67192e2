"""Rows of text to encoded rows on disk, by way of the cache."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from luthier.core import files
from luthier.core.errors import ConfigError, DataError, Fault
from luthier.data.cache import cached_folder, content_key, source_hashes
from luthier.data.encode import Encoded, encode
from luthier.data.prepared import Prepared, encoded_table, write_split
from luthier.data.rows import load_rows
from luthier.data.section import DataSection
from luthier.models import pretrained, vocabulary
from luthier.models.section import ModelSection
from luthier.tasks.text.unknown import UnknownTokens

LONGEST_BY_DEFAULT = 512
SAMPLE = 2000
ENOUGH_TO_WARN = 0.05


def prepare_text(data: DataSection, model: ModelSection, *, multi_label: bool) -> Prepared:
    """Read, clean, split and encode labelled texts; the same content and settings are taken from the cache.

    Args:
        data: Where the rows are and how they are split.
        model: Whose tokenizer encodes them.
        multi_label: Whether a row can have several labels.

    Raises:
        DataError: if the rows cannot be used.
        SetupError: if the tokenizer cannot be loaded.
    """
    if model.scratch is not None:
        raise ConfigError([Fault("model.scratch", "a model from nothing writes text; it has no classes", "use task=text-generation")])
    if data.train is None:
        raise DataError("no training rows are named", where="data.train", fix="name a file: --data reviews.csv")
    sources = [source_hashes(path) for path in (data.train, data.validation, data.test)]
    key = content_key(
        {
            "sources": sources,
            "data": data.model_dump(mode="json", exclude={"augment", "cache"}),
            "tokenizer": pretrained.fingerprint(model.path, endings=(".json", ".txt", ".model")),
            "extend": model.extend_vocabulary,
            "multi_label": multi_label,
            "tokenizers": version("tokenizers"),
        }
    )
    known = None not in sources
    folder, found = cached_folder(key, lambda to: _fill(to, data, model, multi_label), reuse=data.cache and known)
    return Prepared.open(folder, from_cache=found)


def _fill(folder: Path, data: DataSection, model: ModelSection, multi_label: bool) -> None:
    rows = load_rows(data, multi_label=multi_label)
    labels = label_names(rows.splits["train"], multi_label=multi_label, first=data.labels or ())
    tokenizer = pretrained.load_tokenizer(model.path)
    added = teach_characters(tokenizer, rows.splits["train"], extend=model.extend_vocabulary)
    limit = pretrained.max_length(tokenizer, pretrained.load_config(model.path))
    longest = min(limit, LONGEST_BY_DEFAULT) if data.max_length == "auto" else min(data.max_length, limit)
    windows = data.long_texts == "windows"
    if windows:
        _require_room(tokenizer, longest, data)
    token_facts: dict[str, Any] = {"max_length": longest, **added, "truncated": {}}
    counted = UnknownTokens(tokenizer)
    for name, table in rows.splits.items():
        encoded = encode_table(tokenizer, table, max_length=longest, windows=windows, stride=data.window_stride)
        write_split(folder / f"{name}.arrow", encoded_table(table, encoded, targets_of(table["label"], labels, multi_label=multi_label)))
        token_facts["truncated"][name] = 0 if windows else int(encoded.too_long_N.sum())
        counted.add(name, encoded, table["slice"].to_pylist() if "slice" in table.column_names else None)
        if name == "train":
            token_facts |= length_facts(encoded)
    token_facts |= counted.facts()
    facts = {**rows.facts, "tokens": token_facts, "notes": [*rows.notes, *token_notes(token_facts, windows)]}
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.save_pretrained(folder / "tokenizer")
    files.write_json(folder / "data.json", facts)
    files.write_json_lines(folder / "quarantine.jsonl", (bad.as_dict() for bad in rows.bad))
    index = {"splits": list(rows.splits), "labels": labels, "multi_label": multi_label, "max_length": longest}
    files.write_json(folder / "prepared.json", index)


def _require_room(tokenizer: Any, longest: int, data: DataSection) -> None:
    """Refuse windows that share so much with their neighbours that they would never move on."""
    room = longest - tokenizer.num_special_tokens_to_add(data.text_pair is not None)
    if data.window_stride >= room:
        message = f"got {data.window_stride}, but windows of {longest} tokens hold {room} of a text"
        raise ConfigError([Fault("data.window_stride", message, f"such as data.window_stride={room // 4}")])


def encode_table(tokenizer: Any, table: pa.Table, *, max_length: int, windows: bool, stride: int) -> Encoded:
    """Encode the `text` (and `text_pair`) columns of a table."""
    pairs = table["text_pair"].to_pylist() if "text_pair" in table.column_names else None
    return encode(tokenizer, table["text"].to_pylist(), pairs, max_length=max_length, windows=windows, stride=stride)


def label_names(table: pa.Table, *, multi_label: bool, first: Sequence[str] = ()) -> list[str]:
    """Return the labels named `first`, then the others that occur, numbers in their order, words by the alphabet."""
    column = table["label"].combine_chunks()
    found = {str(label) for label in (column.flatten() if multi_label else column).unique().to_pylist()} - set(first)
    if all(label.lstrip("-").isdigit() for label in found):
        return [*first, *sorted(found, key=int)]
    return [*first, *sorted(found)]


def targets_of(column: pa.ChunkedArray, labels: Sequence[str], *, multi_label: bool) -> np.ndarray:
    """Return class numbers `(N,)`, or 0/1 `(N, C)`, of label names."""
    index = {label: position for position, label in enumerate(labels)}
    if not multi_label:
        return np.array([index[label] for label in column.to_pylist()], np.int64)
    targets_NC = np.zeros((len(column), len(labels)), np.int8)
    for row, names in enumerate(column.to_pylist()):
        targets_NC[row, [index[name] for name in names]] = 1
    return targets_NC


def teach_characters(tokenizer: Any, train: pa.Table, *, extend: bool) -> dict[str, Any]:
    """Add the characters of the training texts that a tokenizer does not know; returns how many, and what share it did not know."""
    texts = [text for name in ("text", "text_pair") if name in train.column_names for text in train[name].to_pylist()]
    unknown = vocabulary.unknown_characters(tokenizer, texts)
    sample = UnknownTokens(tokenizer)
    if unknown:
        sample.add("sample", encode(tokenizer, texts[:: max(1, len(texts) // SAMPLE)], max_length=LONGEST_BY_DEFAULT))
    taught = vocabulary.add_characters(tokenizer, unknown) if extend else 0
    return {"unknown_share_before": sample.facts()["unknown_share"], "added_characters": taught}


def length_facts(encoded: Encoded) -> dict[str, Any]:
    """Return histogram, longest, mean and total of the rows' tokens, for `data.json`."""
    lengths = encoded.num_tokens_N
    counts, edges = np.histogram(lengths, bins=min(20, max(1, int(lengths.max() - lengths.min()))))
    return {
        "histogram": {"edges": [round(float(edge), 1) for edge in edges], "counts": counts.tolist()},
        "longest": int(lengths.max()),
        "mean": round(float(lengths.mean()), 2),
        "total": int(lengths.sum()),
    }


def token_notes(facts: dict[str, Any], windows: bool) -> list[str]:
    """Return what is to be said of unknown tokens and of texts that were cut."""
    notes = []
    if facts["unknown_share_before"] > ENOUGH_TO_WARN:
        taught = facts["added_characters"]
        done = f"{taught} characters of the training rows were added and start from the mean" if taught else "none were added"
        notes.append(
            f"warning: the tokenizer does not know {facts['unknown_share_before']:.0%} of the tokens; {done}; "
            "a model made for this language will do better (model.path=...)"
        )
    for split, share in facts["unknown_share_by_split"].items():
        if share > ENOUGH_TO_WARN:
            notes.append(f"warning: {share:.0%} of the tokens of {split} are unknown to the tokenizer")
    for split, count in facts["truncated"].items():
        if count:
            limit = facts["max_length"]
            notes.append(f"{split}: {count} texts are longer than {limit} tokens and were cut (data.long_texts=windows reads them whole)")
    return notes
