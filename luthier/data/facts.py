"""What is to be known of the rows: counts, class balance, lengths, duplicates, fingerprint; all for `data.json`."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from luthier.data.labels import label_counts
from luthier.data.section import DataSection

MATTERS = {"text", "text_pair", "label", "label_separator", "slice_by", "format", "header", "quoting", "delimiter", "encoding", "split"}
MATTERS_IF_SET = {"prompt", "prompt_input", "messages"}
EDGES = [0, 1, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]


def describe_split(table: pa.Table) -> dict[str, Any]:
    """Return the number of rows, the rows of each class (where there are any) and the lengths of the texts of one split.

    Args:
        table: Rows with `text` and perhaps `label`.
    """
    classes = {"classes": label_counts(table)} if "label" in table.column_names else {}
    return {"rows": table.num_rows, **classes, "characters": text_lengths(table["text"])}


def text_lengths(texts: pa.Array | pa.ChunkedArray) -> dict[str, Any]:
    """Return median, 95th percentile, maximum and histogram of the lengths in characters.

    Args:
        texts: Strings.

    Returns:
        `histogram` maps the lower edge of each bin to its rows; the last bin is open.
    """
    lengths = pc.utf8_length(texts).to_numpy()
    if len(lengths) == 0:
        return {"median": 0, "p95": 0, "max": 0, "histogram": {}}
    counts, _ = np.histogram(lengths, bins=[*EDGES, np.iinfo(np.int64).max])
    histogram = {str(edge): int(count) for edge, count in zip(EDGES, counts, strict=True) if count}
    median, p95 = np.percentile(lengths, [50, 95])
    return {"median": float(median), "p95": float(p95), "max": int(lengths.max()), "histogram": histogram}


def duplicates(table: pa.Table) -> dict[str, int]:
    """Count the rows that repeat an earlier text, and the texts that carry more than one label.

    Args:
        table: Rows with `key` (equal where texts are equal) and perhaps `label`.

    Returns:
        `repeated_rows` and, where there are labels, `contradictory_texts`.
    """
    if "label" not in table.column_names:
        return {"repeated_rows": table.num_rows - pc.count_distinct(table["key"]).as_py()}
    labels = table["label"]
    if pa.types.is_list(labels.type):
        labels = pa.array(["\x1f".join(sorted(names)) for names in labels.to_pylist()], pa.string())
    keys = table["key"]
    pairs = pa.table({"text": keys, "label": labels}).group_by(["text", "label"]).aggregate([])
    texts = pc.count_distinct(pairs["text"]).as_py()
    several = pc.value_counts(pairs["text"]).field("counts") if pairs.num_rows > texts else pa.array([], pa.int64())
    return {"repeated_rows": table.num_rows - texts, "contradictory_texts": int((several.to_numpy() > 1).sum())}


def fingerprint(section: DataSection, sources: dict[str, dict[str, Any]], *, multi_label: bool) -> str:
    """Return a sha256 over the contents of the sources and the settings that change the rows; the paths do not matter.

    Args:
        section: The `data` section of the recipe.
        sources: Facts of each source, with `sha256` (files and folders) or `fingerprint` (hub).
        multi_label: Whether a row has any number of labels.
    """
    given = section.model_dump(mode="json")
    given["split"] = {key: value for key, value in given["split"].items() if key != "fold" or value is not None}
    settings = {key: value for key, value in given.items() if key in MATTERS or (key in MATTERS_IF_SET and value is not None)}
    files = {split: facts.get("sha256") or facts.get("fingerprint") for split, facts in sources.items()}
    return hashlib.sha256(json.dumps([settings, files, multi_label], sort_keys=True).encode()).hexdigest()
