from __future__ import annotations

import io
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest

from luthier.core.errors import DataError
from luthier.data.formats import formats
from luthier.data.formats.format import TINY
from luthier.data.section import DataSection
from luthier.data.stream import stream_lines, stream_rows
from tests.data.conftest import sentence


@pytest.mark.parametrize("name", [name for name in formats.names() if name != "hub"])
def test_every_format_streams_without_labels(name, tmp_path):
    bad: list = []
    tables = list(stream_rows(formats.get(name).example(tmp_path), DataSection(text="text"), bad=bad))
    assert sorted(text for table in tables for text in table["text"].to_pylist()) == sorted(text for text, _ in TINY)
    assert bad == []


def test_rows_come_in_order_in_small_tables_with_bad_rows_aside(write_csv):
    source = write_csv([(sentence(n) if n % 100 else "", "x") for n in range(10_000)])
    bad: list = []
    tables = list(stream_rows(source, DataSection(text="text"), bad=bad))
    assert max(table.num_rows for table in tables) <= 4096
    assert [one.row for one in bad] == list(range(1, 10_000, 100))
    numbers = [row for table in tables for row in table["row"].to_pylist()]
    assert sorted([*numbers, *(one.row for one in bad)]) == list(range(1, 10_001))
    assert numbers == sorted(numbers)


def test_only_a_text_column(write_csv):
    assert sum(table.num_rows for table in stream_rows(write_csv([("a",), ("b",)], header=("said",)), DataSection(), bad=[])) == 2


def test_missing_text_column(write_csv):
    with pytest.raises(DataError, match="no column 'review'"):
        list(stream_rows(write_csv([("a", "b")]), DataSection(text="review"), bad=[]))


def test_text_file_is_one_text_a_line(tmp_path):
    (tmp_path / "texts.txt").write_bytes('café, good\nsecond "one\nthird\n'.encode("utf-8-sig"))
    tables = list(stream_rows(str(tmp_path / "texts.txt"), DataSection(text="review"), bad=[]))
    assert tables[0]["text"].to_pylist() == ["café, good", 'second "one', "third"]


def test_plain_lines():
    bad: list = []
    tables = list(stream_lines(io.BytesIO(b"one\r\n\r\ntwo, three\n\xff\n"), DataSection(text="review"), bad=bad))
    assert tables[0].to_pydict() == {"row": [1, 3], "text": ["one", "two, three"]}
    assert [(one.row, one.reason) for one in bad] == [(2, "empty text"), (4, "undecodable bytes")]


def test_json_lines_on_a_stream():
    lines = [json.dumps({"review": "one", "b": "x"}), json.dumps({"review": "two", "b": "y"}), "{broken", json.dumps({"b": "z"})]
    bad: list = []
    section = DataSection(text="review", text_pair="b")
    tables = list(stream_lines(io.BytesIO("\n".join(lines).encode()), section, bad=bad))
    assert tables[0].to_pydict() == {"row": [1, 2], "text": ["one", "two"], "text_pair": ["x", "y"]}
    assert [(one.row, one.kind) for one in bad] == [(3, "broken JSON"), (4, "empty text")]


def test_empty_stream_and_pairs_on_plain_lines():
    with pytest.raises(DataError, match="is empty"):
        list(stream_lines(io.BytesIO(b""), DataSection(), bad=[]))
    with pytest.raises(DataError, match="two texts"):
        list(stream_lines(io.BytesIO(b"one\n"), DataSection(text_pair="b"), bad=[]))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json"])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, ending, monkeypatch):
    monkeypatch.setattr("luthier.data.delimited.BLOCK", 1 << 15)  # pyarrow reads a fixed number of blocks ahead
    monkeypatch.setattr("luthier.data.formats.json.BLOCK", 1 << 16)

    def peak(count: int) -> int:
        path = tmp_path / f"rows{count}.{ending}"
        rows = ({"text": sentence(n) + " padding" * 10, "label": "x"} for n in range(count))
        if ending == "csv":
            path.write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows))
        else:
            joined = (",\n" if ending == "json" else "\n").join(json.dumps(row) for row in rows)
            path.write_text(f"[{joined}]" if ending == "json" else joined)
        tracemalloc.start()
        arrow = 0
        for _ in stream_rows(str(path), DataSection(text="text"), bad=[]):
            arrow = max(arrow, pa.total_allocated_bytes())
        top = tracemalloc.get_traced_memory()[1] + arrow
        tracemalloc.stop()
        return top

    peak(1_000)  # imports
    assert peak(50_000) < peak(20_000) + 1_500_000
