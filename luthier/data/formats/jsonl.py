"""One JSON object a line."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luthier.data.encoding import TextFile, examine, reading
from luthier.data.formats import formats
from luthier.data.formats.format import TINY, Format
from luthier.data.objects import parse_line, read_objects
from luthier.data.reading import Reading
from luthier.data.section import DataSection


@formats.add
class JsonLines(Format):
    """One JSON object a line; keys are columns; a broken line is a bad row, blank lines are ignored."""

    endings = (".jsonl", ".ndjson")

    @classmethod
    def read(cls, source: str, section: DataSection) -> Reading:
        """Open a JSONL file; see `Format.read`."""
        file = examine(Path(source), section.encoding)
        opened = read_objects(lambda: _values(file), source)
        opened.notes += file.notes
        opened.facts["encoding"] = file.encoding
        return opened

    @classmethod
    def example(cls, folder: Path) -> str:
        """Write a tiny file; see `Format.example`."""
        path = folder / "tiny.jsonl"
        rows = (json.dumps({"text": text, "label": label}) for text, label in TINY)
        path.write_text("".join(row + "\n" for row in rows), encoding="utf-8")
        return str(path)


def _values(file: TextFile) -> Iterator[Any]:
    with reading(file.path), io.TextIOWrapper(file.open(), "utf-8") as lines:
        yield from (parse_line(line) for line in lines if not line.isspace())
