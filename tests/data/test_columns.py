from __future__ import annotations

import pytest

from luthier.core.errors import DataError
from luthier.data.columns import find_column
from luthier.data.formats import formats
from luthier.data.rows import load_rows
from luthier.data.section import DataSection


@pytest.mark.parametrize(("column", "place"), [("review", 1), (1, 1), ("1", 1), (0, 0), (" review ", 1), ("7", 2)])
def test_by_name_or_number(column, place):
    assert find_column(column, ["id", "review", "7"], key="data.text", source="x.csv") == place


@pytest.mark.parametrize("column", ["reviews", 3, -1, "3"])
def test_missing_column_names_the_others(column):
    with pytest.raises(DataError, match=r"(?s)it has 'id', 'review', '7'.*to fix: data\.text=(review|id)"):
        find_column(column, ["id", "review", "7"], key="data.text", source="x.csv")


def test_missing_label_says_which_key(write_csv):
    with pytest.raises(DataError, match=r"(?s)no column 'lable'.*where: data\.label.*data\.label=label"):
        load_rows(DataSection(train=write_csv([("a", "b")]), text="text", label="lable"))


def test_wrong_delimiter_is_hinted(write_csv):
    with pytest.raises(DataError, match=r"data\.delimiter=';'"):
        load_rows(DataSection(train=write_csv([("a;b",)], header=("text;label",)), text="text", label="label"))


@pytest.mark.parametrize(
    ("header", "text", "label"),
    [
        (("label", "review"), "review", "label"),
        (("id", "Text", "Intent"), "Text", "Intent"),
        (("内容", "标签"), "内容", "标签"),
        (("what", "which"), "what", "which"),
        (("stars", "said"), "said", "stars"),
    ],
)
def test_guesses(write_csv, header, text, label):
    cells = {text: "a long text of many words", label: "x"}
    rows = [tuple(cells.get(name, str(n)) + ("" if name != text else str(n)) for name in header) for n in range(20)]
    rows = [
        tuple(cell + str(n % 2) if name == label else cell for name, cell in zip(header, row, strict=True)) for n, row in enumerate(rows)
    ]
    loaded = load_rows(DataSection(train=write_csv(rows, header=header)))
    assert loaded.facts["sources"]["train"]["columns"] == {"text": text, "label": label}
    assert any("guessed" in note for note in loaded.notes)


def test_no_guess_lists_the_columns(write_csv):
    with pytest.raises(DataError, match=r"(?s)cannot tell which column.*'a', 'b', 'c'.*data\.text=a"):
        load_rows(DataSection(train=write_csv([("1", "2", "3")], header=("a", "b", "c"))))


def test_two_columns_of_one_name_take_numbers(write_csv):
    source = write_csv([("a", "first", "x"), ("b", "second", "y")], header=("text", "text", "label"))
    reading = formats.get("csv").read(source, DataSection())
    assert next(iter(reading.chunks([1, 2]))).cells[1].to_pylist() == ["first", "second"]
