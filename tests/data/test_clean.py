from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from luthier.core.errors import DataError
from luthier.data.clean import LabelRule, clean, label_name
from luthier.data.collect import BadRowsError, collect
from luthier.data.columns import Columns
from luthier.data.reading import Chunk
from luthier.data.rows import load_rows
from luthier.data.section import DataSection
from tests.data.conftest import sentence


@pytest.mark.parametrize("text", ["", " ", "\t\n", "\u200b", "\ufeff \u2060", "\u3000", "\u00a0", "\u3164", "\u2800", "\u00ad", None])
def test_invisible_texts_are_empty(text):
    chunk = Chunk(np.array([5]), {0: pa.array([text], pa.string()), 1: pa.array(["x"])})
    table, bad = clean(chunk, Columns(0, label=1), source="x", labels=LabelRule())
    assert table.num_rows == 0
    assert [(one.row, one.reason) for one in bad] == [(5, "empty text")]


@pytest.mark.parametrize("text", ["a", "。", "👍", "\u200ba", "0", "é"])
def test_visible_texts_are_kept_as_they_are(text):
    chunk = Chunk(np.array([1]), {0: pa.array([text]), 1: pa.array(["x"])})
    table, bad = clean(chunk, Columns(0, label=1), source="x", labels=LabelRule())
    assert table["text"].to_pylist() == [text]
    assert bad == []


@pytest.mark.parametrize(("cell", "name"), [("a b ", "a b"), (1, "1"), (1.0, "1"), (1.5, "1.5"), (True, "true"), (" ", None), (None, None)])
def test_label_names(cell, name):
    assert label_name(cell) == name


def test_second_text_slice_and_group_are_carried(write_csv):
    rows = [(f"a{n}", f"b{n}" if n else " ", str(n % 2), "en", f"c{n}") for n in range(30)]
    source = write_csv(rows, header=("text", "other", "label", "language", "customer"))
    section = DataSection(train=source, text_pair="other", slice_by="language", split={"group_by": "customer"})
    collected = collect(source, section, split="train", multi_label=False)
    assert set(collected.table.column_names) == {"row", "text", "text_pair", "label", "slice", "group", "key"}
    assert [(one.row, one.reason) for one in collected.bad] == [(1, "empty text_pair")]
    assert set(load_rows(section).splits["train"].column_names) == {"id", "row", "text", "text_pair", "label", "slice"}


def test_too_many_bad_rows_stop_with_counts_and_examples(write_csv, good_rows):
    rows = [*good_rows, ("", "good"), ("x", ""), ("", "bad")]
    with pytest.raises(BadRowsError) as caught:
        load_rows(DataSection(train=write_csv(rows)))
    message = str(caught.value)
    assert "3 of 43 rows (7.0%)" in message
    assert "empty text: 2, missing label: 1" in message
    assert "row 41: empty text; row 42: missing label 'x'" in message
    assert "data.max_bad_rows=0.07" in message
    assert [one.row for one in caught.value.bad] == [41, 42, 43]
    assert len(load_rows(DataSection(train=write_csv(rows), max_bad_rows=0.07)).bad) == 3


def test_the_limit_itself_is_allowed(write_csv, good_rows):
    assert len(load_rows(DataSection(train=write_csv([*good_rows[:38], ("", "good"), ("", "good")]))).bad) == 2


@pytest.mark.parametrize("limit", [0.05, 1.0])
def test_all_rows_bad(write_csv, limit):
    with pytest.raises(DataError, match="none of the 3 rows .*missing label: 3"):
        load_rows(DataSection(train=write_csv([("a", ""), ("b", " "), ("c", "")]), max_bad_rows=limit))


def test_quarantine_finds_every_bad_row_and_no_other(tmp_path: Path):
    chance = random.Random(0)
    kinds = {
        "empty text": lambda n: [b" \xe2\x80\x8b", b"good"],
        "missing label": lambda n: [b"text %d" % n, b""],
        "undecodable bytes": lambda n: [b"bad \xff\xc3\x28 %d" % n, b"bad"],
        "wrong number of cells": lambda n: [b"one", b"two", b"%d" % n] if n % 2 else [b"alone"],
    }
    bad_rows = {row: chance.choice(sorted(kinds)) for row in chance.sample(range(1, 10_001), 100)}
    with (tmp_path / "rows.csv").open("wb") as stream:
        stream.write(b"text,label\n")
        for row in range(1, 10_001):
            hard = [f'"{sentence(row)}, ""well"" 好\n\nnext"'.encode(), b"good" if row % 2 else b"bad"]
            cells = kinds[bad_rows[row]](row) if row in bad_rows else hard
            stream.write(b",".join(cells) + (b"\r\n" if row % 3 else b"\n") + (b"\n" if row % 50 == 0 else b""))
    rows = load_rows(DataSection(train=str(tmp_path / "rows.csv")))
    assert {one.row: one.kind for one in rows.bad} == bad_rows
    kept = np.concatenate([table["row"].to_numpy() for table in rows.splits.values()])
    assert sorted(kept) == sorted(set(range(1, 10_001)) - set(bad_rows))
    assert rows.facts["sources"]["train"]["bad"] == {
        kind: list(bad_rows.values()).count(kind) for kind in rows.facts["sources"]["train"]["bad"]
    }


def test_bad_rows_are_json(write_csv):
    collected = collect(write_csv([("a", "x"), ("", "y")]), DataSection(max_bad_rows=0.5), split="train", multi_label=False)
    assert collected.bad[0].as_dict()["row"] == 2
