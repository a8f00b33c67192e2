from __future__ import annotations

import codecs

import pytest

from luthier.core.errors import DataError
from luthier.data.collect import collect
from luthier.data.encoding import examine
from luthier.data.rows import load_rows
from luthier.data.section import DataSection

CHINESE = [
    ("房间很干净，服务也好", "好"),
    ("早餐太差，再也不来了", "差"),
    ("位置方便，下次还住这里", "好"),
    ("空调坏了，整晚没睡", "差"),
] * 10
FRENCH = [
    ("Le café était très agréable", "bien"),
    ("L'hôtel à côté était sale", "mal"),
    ("Employés désagréables, accueil gâché", "mal"),
] * 10


@pytest.mark.parametrize(
    ("rows", "encoding", "found"),
    [
        (CHINESE, "utf-8", "utf-8"),
        (CHINESE, "utf-8-sig", "utf-8"),
        (CHINESE, "gbk", "gb18030"),
        (CHINESE, "gb18030", "gb18030"),
        (CHINESE, "utf-16", "utf-16"),
        (FRENCH, "latin-1", "cp1252"),
        (FRENCH, "cp1252", "cp1252"),
        (FRENCH, "utf-16-le", "utf-16-le"),
        (FRENCH, "utf-16-be", "utf-16-be"),
        (FRENCH, "utf-32", "utf-32"),
    ],
)
@pytest.mark.parametrize("lineterminator", ["\n", "\r\n"])
def test_encoding_is_found(write_csv, rows, encoding, found, lineterminator):
    source = write_csv(rows, encoding=encoding, lineterminator=lineterminator)
    collected = collect(source, DataSection(), split="train", multi_label=False)
    assert collected.facts["encoding"] == found
    assert collected.table["text"].to_pylist() == [text for text, _ in rows]
    assert any(found in note for note in collected.notes) == (found != "utf-8")


def test_encoding_of_the_recipe_is_used(write_csv):
    source = write_csv(CHINESE, encoding="gbk")
    collected = collect(source, DataSection(encoding="gb2312"), split="train", multi_label=False)
    assert collected.table["text"].to_pylist()[0] == CHINESE[0][0]
    with pytest.raises(DataError, match="(?s)no such encoding.*gb18030"):
        collect(source, DataSection(encoding="gb1803"), split="train", multi_label=False)


def test_traditional_chinese_in_big5(write_csv):
    rows = [("這家飯店的服務很好，房間乾淨", "好"), ("今天天氣不錯，我們去看電影", "好"), ("早餐太差，不會再來", "差")] * 10
    collected = collect(write_csv(rows, encoding="big5"), DataSection(), split="train", multi_label=False)
    assert collected.table["text"].to_pylist() == [text for text, _ in rows]


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl"])
def test_undecodable_bytes_are_set_aside(tmp_path, name):
    separator, quote = ("\t", "") if name.endswith("tsv") else (",", '"')
    lines = [f"{quote}评论 {n}{quote}{separator}{n % 2}" for n in range(100)]
    if name.endswith("jsonl"):
        lines = [f'{{"text": "评论 {n}", "label": {n % 2}}}' for n in range(100)]
    broken = [line.encode() if n not in (7, 50) else line.encode().replace("论".encode(), b"\xff\xfe") for n, line in enumerate(lines)]
    header = [] if name.endswith("jsonl") else [f"text{separator}label".encode()]
    (tmp_path / name).write_bytes(b"\n".join(header + broken) + b"\n")
    collected = collect(str(tmp_path / name), DataSection(), split="train", multi_label=False)
    assert [(one.row, one.reason) for one in collected.bad] == [(8, "undecodable bytes"), (51, "undecodable bytes")]
    assert collected.table.num_rows == 98
    assert any("not UTF-8" in note for note in collected.notes)


def test_undecodable_bytes_in_a_row_with_too_many_cells(tmp_path):
    lines = [f"row {n},{n % 2}".encode() for n in range(100)] + [b"\xff\xff,1,2"]
    (tmp_path / "rows.csv").write_bytes(b"text,label\n" + b"\n".join(lines))
    collected = collect(str(tmp_path / "rows.csv"), DataSection(), split="train", multi_label=False)
    assert [(one.row, one.kind) for one in collected.bad] == [(101, "wrong number of cells")]


def test_half_broken_file_stops(tmp_path):
    lines = [f"row {n},{n % 2}".encode() if n % 3 else b"\x81\xff\x81 ,1" for n in range(30)]
    (tmp_path / "rows.csv").write_bytes(b"text,label\n" + b"\n".join(lines))
    with pytest.raises(DataError, match="undecodable bytes: 10"):
        load_rows(DataSection(train=str(tmp_path / "rows.csv"), encoding="utf-8"))


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl"])
def test_a_line_of_50_megabytes_is_refused(tmp_path, name):
    path = tmp_path / name
    with path.open("wb") as stream:
        stream.write(b"text,label\nfine,good\n")
        for _ in range(50):
            stream.write(b"x" * 1_000_000)
    with pytest.raises(DataError, match=r"(?s)line 3 of .* is 50 MB long.*line ends"):
        load_rows(DataSection(train=str(path)))


@pytest.mark.parametrize("content", [b"", codecs.BOM_UTF8, b"\n\n", b"\r\n"])
@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl"])
def test_empty_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="is empty|has no rows"):
        load_rows(DataSection(train=str(tmp_path / name)))


def test_only_a_header(tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\n")
    with pytest.raises(DataError, match="no rows, only a header"):
        load_rows(DataSection(train=str(tmp_path / "rows.csv")))


def test_old_mac_line_ends(tmp_path):
    (tmp_path / "rows.csv").write_bytes(b"text,label\rone,a\rtwo,b\r")
    assert collect(str(tmp_path / "rows.csv"), DataSection(), split="train", multi_label=False).table.num_rows == 2


def test_longest_line_across_blocks(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_bytes(b"a\n" + b"b" * 3_000_000 + b"\nc\n")
    assert examine(path).longest_line == 3_000_000
