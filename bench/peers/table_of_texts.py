"""Read a file of texts and labels: CSV with named columns, or TSV with numbered ones."""

from __future__ import annotations

import csv
from pathlib import Path


def read(path: str, text: str, label: str) -> tuple[list[str], list[str]]:
    """Return the texts and the labels of a file."""
    if path.endswith(".csv"):
        with Path(path).open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        return [row[text] for row in rows], [row[label] for row in rows]
    cells = [line.split("\t") for line in Path(path).read_text(encoding="utf-8").splitlines() if line]
    return [row[int(text)] for row in cells], [row[int(label)] for row in cells]
