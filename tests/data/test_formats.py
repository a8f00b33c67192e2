from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.core.errors import DataError, SetupError
from luthier.data.collect import collect
from luthier.data.formats import formats
from luthier.data.formats.format import TINY
from luthier.data.rows import load_rows
from luthier.data.section import DataSection


def read(source: str, *, multi_label: bool = False, **section) -> tuple[list[tuple], list]:
    collected = collect(source, DataSection(max_bad_rows=1.0, **section), split="train", multi_label=multi_label)
    table = collected.table
    return list(zip(table["text"].to_pylist(), table["label"].to_pylist(), strict=True)), collected.bad


@pytest.mark.parametrize("name", [name for name in formats.names() if name != "hub"])
def test_every_format_reads_its_example(name, tmp_path):
    source = formats.get(name).example(tmp_path)
    rows, bad = read(source)
    assert sorted(rows) == sorted(TINY)
    assert bad == []


@pytest.mark.parametrize("name", ["csv", "tsv", "json", "jsonl"])
def test_text_formats_unpack_gzip(name, tmp_path):
    source = Path(formats.get(name).example(tmp_path))
    packed = source.with_name(source.name + ".gz")
    packed.write_bytes(gzip.compress(source.read_bytes()))
    source.unlink()
    assert sorted(read(str(packed))[0]) == sorted(TINY)


def test_cut_gzip_is_named(tmp_path):
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress(b"text,label\n" + b"fine,good\n" * 5000)[:-20])
    with pytest.raises(DataError, match="not a whole gzip file"):
        read(str(path))


def test_csv_quotes_breaks_blank_lines_and_windows_ends(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b'\xef\xbb\xbftext,label\r\n"one, two",good\r\n\r\n"line\r\nbreak",bad\r\n"say ""no""",bad\r\n\r\n')
    assert read(str(path))[0] == [("one, two", "good"), ("line\r\nbreak", "bad"), ('say "no"', "bad")]


def test_csv_bad_rows_keep_the_numbering(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\na,good\nb\n\nc,bad\nd,bad,more\ne,good\n,good\nf\n")
    rows, bad = read(str(path))
    assert rows == [("a", "good"), ("c", "bad"), ("e", "good")]
    assert [(one.row, one.kind) for one in bad] == [
        (2, "wrong number of cells"),
        (4, "wrong number of cells"),
        (6, "empty text"),
        (7, "wrong number of cells"),
    ]


def test_tsv_takes_quotes_as_they_are(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text('"half a quote\tgood\nanother\tbad\n')
    assert read(str(path), text=0, label=1)[0] == [('"half a quote', "good"), ("another", "bad")]


@pytest.mark.parametrize(
    ("name", "section", "rows", "is_a_choice"),
    [
        ("rows.tsv", {"text": 0, "label": 1}, 3, True),
        ("rows.tsv", {"text": "0", "label": "1"}, 3, True),
        ("rows.tsv", {"text": 0, "label": 1, "header": True}, 2, False),
        ("rows.tsv", {"text": "text", "label": "label"}, 2, False),
        ("rows.tsv", {}, 2, True),
        ("rows.csv", {"text": 0, "label": 1, "delimiter": "\t"}, 2, True),
        ("rows.csv", {"text": 0, "label": 1, "delimiter": "\t", "header": False}, 3, True),
    ],
)
def test_header_line(tmp_path, name, section, rows, is_a_choice):
    (tmp_path / name).write_text("text\tlabel\nfine\tgood\ndull\tbad\n")
    collected = collect(str(tmp_path / name), DataSection(**section), split="train", multi_label=False)
    assert collected.table.num_rows == rows
    assert any("line" in note for note in collected.notes) == is_a_choice


def test_unlabelled_tsv_without_header_loses_no_row(tmp_path):
    (tmp_path / "rows.tsv").write_text("a rather fine film\tgood\nvery dull\tbad\n")
    assert len(read(str(tmp_path / "rows.tsv"))[0]) == 2


def test_json_lines_set_broken_lines_aside(write_json_lines):
    rows = [{"text": "a", "label": 1}, '{"text": "b", ', "[1, 2]", "", {"label": "x", "text": "c"}, {"text": "d"}]
    rows, bad = read(write_json_lines(rows))
    assert rows == [("a", "1"), ("c", "x")]
    assert [(one.row, one.kind) for one in bad] == [(2, "broken JSON"), (3, "not a JSON object"), (5, "missing label")]


def test_json_cells_of_mixed_types(write_json_lines):
    cells = [True, 1, 1.0, 2.5, " x ", None, float("nan"), ["a"], {"a": 1}]
    rows, bad = read(write_json_lines([{"text": f"row {place}", "label": cell} for place, cell in enumerate(cells)]))
    assert [label for _, label in rows] == ["true", "1", "1", "2.5", "x"]
    assert [one.kind for one in bad] == ["missing label"] * 2 + ["label of a wrong type"] * 2


def test_json_text_of_wrong_type_and_half_characters(write_json_lines):
    rows, bad = read(write_json_lines([{"text": 3, "label": "a"}, {"text": "fine", "label": "a"}, '{"text": "\\ud800", "label": "a"}']))
    assert rows == [("fine", "a")]
    assert [one.kind for one in bad] == ["text of a wrong type", "undecodable bytes"]
    json.dumps([one.as_dict() for one in bad]).encode("utf-8")


@pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: {"version": 1, "data": rows}, lambda rows: {"rows": rows}])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_lists(tmp_path, wrap, indent):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(wrap([{"text": f"row {n} [{{", "label": n % 2} for n in range(5)]), indent=indent))
    assert len(read(str(path))[0]) == 5


def test_json_list_longer_than_a_block(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"text": f"row {n} " + "x" * 50_000, "label": n % 2} for n in range(60)]))
    assert len(read(str(path))[0]) == 60


def test_json_with_one_object_a_line(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n')
    assert read(str(path))[0] == [("a", "x"), ("b", "y")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"text": "a"}, {"text": ', "element 2"),
        ('[{"text": "a"}', "not closed"),
        ("{", "not valid JSON"),
        ('{"text": {"0": "a"}}', "wanted a list"),
        ("3", "one value"),
        ("[]", "no rows"),
        ("[1, 2]", "no row of"),
    ],
)
def test_broken_json(tmp_path, text, message):
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read(str(path))


def test_parquet_types(tmp_path):
    table = pa.table(
        {
            "text": pa.array(["a", "b", None, "d"], pa.large_string()),
            "label": pa.array([1.0, None, 0.0, 0.0]),
            "word": pa.array(["x", "y", "x", "y"]).dictionary_encode(),
            "flag": [True, False, True, None],
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    source = str(tmp_path / "rows.parquet")
    rows, bad = read(source, label="label")
    assert rows == [("a", "1"), ("d", "0")]
    assert [(one.row, one.reason) for one in bad] == [(2, "missing label"), (3, "empty text")]
    assert [label for _, label in read(source, label="word")[0]] == ["x", "y", "y"]
    assert [label for _, label in read(source, label="flag")[0]] == ["true", "false"]


def test_parquet_text_column_of_numbers(tmp_path):
    pq.write_table(pa.table({"text": [1, 2], "label": ["a", "b"]}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="none of the 2 rows.*text of a wrong type"):
        read(str(tmp_path / "rows.parquet"))


@pytest.mark.parametrize("name", ["rows.parquet", "rows.arrow"])
def test_damaged_files(tmp_path, name):
    (tmp_path / name).write_bytes(b"not what it says")
    with pytest.raises(DataError, match="cannot be read"):
        read(str(tmp_path / name))


def test_arrow_stream_and_feather(tmp_path):
    table = pa.table({"text": ["a", "b"], "label": ["x", "y"]})
    with pa.ipc.new_stream(str(tmp_path / "rows.arrow"), table.schema) as writer:
        writer.write_table(table)
    assert read(str(tmp_path / "rows.arrow"))[0] == [("a", "x"), ("b", "y")]


def test_multi_label_cells(tmp_path, write_csv):
    pq.write_table(pa.table({"text": ["a", "b", "c"], "label": [["x", "y"], [], None]}), tmp_path / "rows.parquet")
    rows, bad = read(str(tmp_path / "rows.parquet"), multi_label=True)
    assert rows == [("a", ["x", "y"]), ("b", [])]
    assert [one.kind for one in bad] == ["missing label"]
    source = write_csv([("a", "x | y|x"), ("b", ""), ("c", "y")])
    assert read(source, multi_label=True, label_separator="|")[0] == [("a", ["x", "y"]), ("c", ["y"])]


def test_list_of_labels_is_a_wrong_type_for_one_label(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "label": [["x"]]}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="label of a wrong type"):
        read(str(tmp_path / "rows.parquet"))


def test_text_folder_with_splits(tmp_path):
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for label in ("neg", "pos"):
            for number in range(count):
                path = tmp_path / "films" / split / label / f"{number}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{split} {label} {number}")
    (tmp_path / "films" / "train" / "neg" / "0.txt").write_text("  ")
    rows = load_rows(DataSection(train=str(tmp_path / "films"), max_bad_rows=0.5))
    assert {name: table.num_rows for name, table in rows.splits.items()} == {"train": 7, "validation": 4, "test": 4}
    assert [(one.reason, Path(one.file).name) for one in rows.bad] == [("empty text", "0.txt")]


def test_datasets_folder_keeps_class_names_and_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    parts = {
        name: datasets.Dataset.from_dict({"text": [f"{name} {n}" for n in range(8)], "label": [0, 1] * 4}, features=features)
        for name in ("train", "test")
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    rows = load_rows(DataSection(train=str(tmp_path / "saved")))
    assert set(rows.splits) == {"train", "test"}
    assert rows.splits["test"]["label"].to_pylist() == ["neg", "pos"] * 4
    assert rows.facts["sources"]["train"]["sha256"]
    parts["train"].to_parquet(str(tmp_path / "rows.parquet"))
    assert read(str(tmp_path / "rows.parquet"))[0][1] == ("train 1", "pos")


def test_hub_offline_answers_at_once(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    with pytest.raises(SetupError, match="no hub can be reached"):
        load_rows(DataSection(train="someone/reviews"))


def test_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "reviews.csv").write_text("text,label\n")
    with pytest.raises(DataError, match=r"(?s)no such file.*did you mean '.*reviews\.csv'"):
        load_rows(DataSection(train=str(tmp_path / "review.csv")))
    with pytest.raises(DataError, match="does not exist"):
        load_rows(DataSection(train=str(tmp_path / "nowhere" / "review.csv")))


def test_unknown_ending_and_unknown_folder(tmp_path):
    (tmp_path / "rows.xlsx").write_text("x")
    with pytest.raises(DataError, match=r"(?s)known: .*\.csv.*data\.format"):
        load_rows(DataSection(train=str(tmp_path / "rows.xlsx")))
    with pytest.raises(DataError, match=r"holds rows\.xlsx"):
        load_rows(DataSection(train=str(tmp_path)))
