"""Tab-separated values."""

from __future__ import annotations

from pathlib import Path

from luthier.data.delimited import Dialect, read_delimited
from luthier.data.formats import formats
from luthier.data.formats.format import TINY, Format
from luthier.data.reading import Reading
from luthier.data.section import DataSection


@formats.add
class Tsv(Format):
    """Cells separated by tabs; quotes are ordinary characters; with numbered columns there is no header line."""

    endings = (".tsv", ".tab", ".txt")

    @classmethod
    def read(cls, source: str, section: DataSection) -> Reading:
        """Open a TSV file; see `Format.read`."""
        return read_delimited(source, section, dialect=Dialect("\t", quoting=False, header=False))

    @classmethod
    def example(cls, folder: Path) -> str:
        """Write a tiny file; see `Format.example`."""
        path = folder / "tiny.tsv"
        path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in TINY), encoding="utf-8")
        return str(path)
