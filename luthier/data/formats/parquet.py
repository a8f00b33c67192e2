"""Apache Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from luthier.data.formats import formats
from luthier.data.formats.format import TINY, Format
from luthier.data.reading import Reading
from luthier.data.section import DataSection
from luthier.data.typed import ROWS, damaged, read_typed


@formats.add
class Parquet(Format):
    """A Parquet file, read page by page."""

    endings = (".parquet", ".pq")

    @classmethod
    def read(cls, source: str, section: DataSection) -> Reading:
        """Open a Parquet file; see `Format.read`."""
        try:
            schema = pq.read_schema(source)
        except (pa.ArrowException, OSError) as error:
            raise damaged(source, error) from None
        return read_typed(schema, lambda names: _batches(source, names), source)

    @classmethod
    def example(cls, folder: Path) -> str:
        """Write a tiny file; see `Format.example`."""
        texts, labels = zip(*TINY, strict=True)
        pq.write_table(pa.table({"text": texts, "label": labels}), folder / "tiny.parquet")
        return str(folder / "tiny.parquet")


def _batches(source: str, names: list[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False) as file:
        yield from file.iter_batches(batch_size=ROWS, columns=names)
