"""Comma-separated values."""

from __future__ import annotations

from pathlib import Path

from luthier.data.delimited import Dialect, read_delimited
from luthier.data.formats import formats
from luthier.data.formats.format import TINY, Format
from luthier.data.reading import Reading
from luthier.data.section import DataSection


@formats.add
class Csv(Format):
    """Cells separated by commas, enclosed by quotes where they hold commas or line breaks; the first line names the columns."""

    endings = (".csv",)

    @classmethod
    def read(cls, source: str, section: DataSection) -> Reading:
        """Open a CSV file; see `Format.read`."""
        return read_delimited(source, section, dialect=Dialect(",", quoting=True, header=True))

    @classmethod
    def example(cls, folder: Path) -> str:
        """Write a tiny file; see `Format.example`."""
        path = folder / "tiny.csv"
        path.write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in TINY), encoding="utf-8")
        return str(path)
