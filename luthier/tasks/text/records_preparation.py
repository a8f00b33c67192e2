"""Rows of a task that reads more than a text and a label to encoded rows on disk, by way of the cache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from luthier.core import files
from luthier.core.errors import ConfigError, DataError, Fault
from luthier.data.cache import cached_folder, content_key, source_hashes
from luthier.data.encode import Encoded
from luthier.data.prepared import Prepared, PreparedSplit, encoded_table, write_split
from luthier.data.reading import BadRow
from luthier.data.rows import Rows
from luthier.data.section import DataSection
from luthier.models import pretrained
from luthier.models.scratch import open_words, words_fingerprint
from luthier.models.section import ModelSection
from luthier.tasks.text.preparation import LONGEST_BY_DEFAULT, length_facts, teach_characters, token_notes
from luthier.tasks.text.unknown import UnknownTokens

log = logging.getLogger("luthier")


@dataclass(frozen=True)
class Laid:
    """Rows of one split as the model reads them.

    Args:
        table: The rows that are used: `id`, `row`, `text`, `text_pair` and `slice` where there are any, and `record`.
        encoded: Their tokens.
        targets: What is learnt of each.
        bad: Rows that cannot be used after all, such as those that nothing would be learnt of.
        notes: What is to be said.
    """

    table: pa.Table
    encoded: Encoded
    targets: np.ndarray | Sequence[np.ndarray]
    bad: list[BadRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reader:
    """How a task reads its rows.

    Args:
        settings: What the encoded rows depend on, beside data and tokenizer: the name of the task and its settings, as plain data.
        load: Reads, cleans and splits the rows, by `load_records`.
        labels: From the training rows to the names that targets are numbers of.
        lay_out: From the rows of a split, the tokenizer, the longest window in tokens, and the names, to encoded rows.
        config: Gives the config of the model, where it can be built from nothing; None: that of a pretrained one.
        says_what_is_cut: Whether `lay_out` says itself what was cut.
    """

    settings: Mapping[str, Any]
    load: Callable[[], Rows]
    labels: Callable[[pa.Table], Sequence[str]]
    lay_out: Callable[[pa.Table, Any, int, Sequence[str]], Laid]
    config: Callable[[ModelSection, Any], Any] | None = None
    says_what_is_cut: bool = False


def prepare_records(data: DataSection, model: ModelSection, reader: Reader) -> Prepared:
    """Read, clean, split and encode the rows; the same content and settings are taken from the cache.

    Args:
        data: Where the rows are and how they are split.
        model: Whose tokenizer encodes them.
        reader: How the task reads them.

    Raises:
        DataError: if the rows cannot be used.
        SetupError: if the tokenizer cannot be loaded.
    """
    if data.train is None:
        raise DataError("no training rows are named", where="data.train", fix="name a file: --data rows.jsonl")
    if model.scratch is not None and reader.config is None:
        what = f"{reader.settings['task']} begins with a pretrained model"
        raise ConfigError([Fault("model.scratch", what, "leave it out, and name model.path=...")])
    sources = [source_hashes(path) for path in (data.train, data.validation, data.test)]
    key = content_key(
        {
            "sources": sources,
            "data": data.model_dump(mode="json", exclude={"augment", "cache"}),
            "tokenizer": words_fingerprint(model),
            "scratch": model.scratch,
            "extend": model.extend_vocabulary,
            "reader": dict(reader.settings),
            "tokenizers": version("tokenizers"),
        }
    )
    folder, found = cached_folder(key, lambda to: _fill(to, data, model, reader), reuse=data.cache and None not in sources)
    return Prepared.open(folder, from_cache=found)


def encoded_splits(rows: Rows, lay_out: Callable[[pa.Table], Laid]) -> dict[str, PreparedSplit]:
    """Return rows of other files, encoded, and say what is to be said of them.

    Args:
        rows: As `load_records` found them.
        lay_out: From the rows of a split to encoded ones.
    """
    for note in rows.notes:
        log.info(note)
    splits = {}
    for name, table in rows.splits.items():
        laid = lay_out(table)
        for note in laid.notes:
            log.info("%s: %s", name, note)
        splits[name] = PreparedSplit(encoded_table(laid.table, laid.encoded, laid.targets))
    return splits


def _fill(folder: Path, data: DataSection, model: ModelSection, reader: Reader) -> None:
    rows = reader.load()
    found = list(reader.labels(rows.splits["train"]))
    labels = list(dict.fromkeys([*(data.labels or ()), *found])) if found else []
    tokenizer = open_words(model)
    added = teach_characters(tokenizer, rows.splits["train"], extend=model.extend_vocabulary)
    config = pretrained.load_config(model.path) if reader.config is None else reader.config(model, tokenizer)
    limit = pretrained.max_length(tokenizer, config)
    longest = min(limit, LONGEST_BY_DEFAULT) if data.max_length == "auto" else min(data.max_length, limit)
    facts: dict[str, Any] = {"max_length": longest, **added, "truncated": {}}
    counted, bad, notes = UnknownTokens(tokenizer), list(rows.bad), list(rows.notes)
    for name, table in rows.splits.items():
        laid = reader.lay_out(table, tokenizer, longest, labels)
        write_split(folder / f"{name}.arrow", encoded_table(laid.table, laid.encoded, laid.targets))
        counted.add(name, laid.encoded, laid.table["slice"].to_pylist() if "slice" in laid.table.column_names else None)
        facts["truncated"][name] = int(laid.encoded.too_long_N.sum())
        facts |= length_facts(laid.encoded) if name == "train" else {}
        rows.facts["splits"][name]["rows"] = laid.table.num_rows
        source = rows.facts["sources"].get(name, rows.facts["sources"].get("train", {})).get("source", name)
        bad += [replace(one, file=one.file or source, split=name) for one in laid.bad]
        notes += [f"{name}: {note}" for note in laid.notes]
    facts |= counted.facts()
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.save_pretrained(folder / "tokenizer")
    said = token_notes({**facts, "truncated": {}} if reader.says_what_is_cut else facts, windows=False)
    files.write_json(folder / "data.json", {**rows.facts, "tokens": facts, "notes": [*notes, *said]})
    files.write_json_lines(folder / "quarantine.jsonl", (one.as_dict() for one in bad))
    index = {"splits": list(rows.splits), "labels": labels, "multi_label": False, "max_length": longest}
    files.write_json(folder / "prepared.json", index)
