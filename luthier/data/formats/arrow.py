"""Apache Arrow: IPC files (Feather) and streams."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from luthier.data.formats import formats
from luthier.data.formats.format import TINY, Format
from luthier.data.reading import Reading
from luthier.data.section import DataSection
from luthier.data.typed import damaged, read_typed


@formats.add
class Arrow(Format):
    """An Arrow IPC file (also called Feather 2) or stream, memory-mapped."""

    endings = (".arrow", ".feather", ".ipc")

    @classmethod
    def read(cls, source: str, section: DataSection) -> Reading:
        """Open an Arrow file; see `Format.read`."""
        try:
            with pa.memory_map(source) as mapped:
                schema = _open(mapped).schema
        except (pa.ArrowException, OSError) as error:
            raise damaged(source, error) from None
        return read_typed(schema, lambda names: _batches(source, names), source)

    @classmethod
    def example(cls, folder: Path) -> str:
        """Write a tiny file; see `Format.example`."""
        texts, labels = zip(*TINY, strict=True)
        table = pa.table({"text": texts, "label": labels})
        with pa.ipc.new_file(str(folder / "tiny.arrow"), table.schema) as writer:
            writer.write_table(table)
        return str(folder / "tiny.arrow")


def _open(mapped: pa.MemoryMappedFile) -> pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader:
    try:
        return pa.ipc.open_file(mapped)
    except pa.ArrowInvalid:
        mapped.seek(0)
        return pa.ipc.open_stream(mapped)


def _batches(source: str, names: list[str]) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(source) as mapped:
        opened = _open(mapped)
        if isinstance(opened, pa.ipc.RecordBatchFileReader):
            yield from (opened.get_batch(number).select(names) for number in range(opened.num_record_batches))
        else:
            yield from (batch.select(names) for batch in opened)
