"""Rows of tagged words from files of every kind, and what is said of those that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import DataError
from luthier.data.rows import Rows
from luthier.data.section import DataSection
from luthier.tasks.tokens.rows import habits_of, load_tagged
from luthier.tasks.tokens.words import joined, words_in

ADA = ["Ada", "Lovelace", "saw", "London", "."]
TAGS = ["B-PER", "I-PER", "O", "B-LOC", "O"]


def load(path: Path, *, names: tuple[str, ...] | None = None, scheme: str = "auto", **data: Any) -> Rows:
    section = DataSection.model_validate({"train": str(path), "split": {"test": 0.0}, "max_bad_rows": 1.0, **data})
    return load_tagged(section, habits_of(section, scheme=scheme, names=names), names)


def rows_of(rows: Rows, split: str = "train") -> list[tuple[str, list[str], list[str]]]:
    table = rows.splits[split]
    found = []
    for text, line in zip(table["text"].to_pylist(), table["record"].to_pylist(), strict=True):
        record = json.loads(line)
        found.append((text, [text[a:b] for a, b in zip(record["starts"], record["ends"], strict=True)], record["tags"]))
    return found


def lines(path: Path, *rows: Any) -> Path:
    written = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in written), encoding="utf-8")
    return path


def test_lists_of_words_and_tags(tmp_path: Path) -> None:
    listed = lines(tmp_path / "a.jsonl", {"tokens": ADA, "ner_tags": TAGS})
    assert rows_of(load(listed)) == [("Ada Lovelace saw London .", ADA, TAGS)]
    assert rows_of(load(lines(tmp_path / "b.jsonl", {"words": " ".join(ADA), "tags": " ".join(TAGS)}))) == rows_of(load(listed))
    written = lines(tmp_path / "c.csv", "tokens,tags", "\"['Ada', 'Lovelace', 'saw', 'London', '.']\",\"" + " ".join(TAGS) + '"')
    assert rows_of(load(written)) == rows_of(load(listed))
    named = lines(tmp_path / "d.jsonl", {"w": ADA, "t": TAGS})
    assert rows_of(load(named, text="w", label="t")) == rows_of(load(listed))


def test_tags_that_are_numbers_need_names(tmp_path: Path) -> None:
    path, names = lines(tmp_path / "a.jsonl", {"tokens": ADA, "tags": [1, 2, 0, 3, 0]}), ("O", "B-PER", "I-PER", "B-LOC")
    assert rows_of(load(path, names=names))[0][2] == TAGS
    with pytest.raises(DataError, match=r"task\.tag_names"):
        load(path)


CONLL = """-DOCSTART- -X- -X- O

# id = 1
Ada NNP I-NP I-PER
Lovelace NNP I-NP I-PER
saw VBD I-VP O
London NNP I-NP I-LOC
. . O O

# VBZ I-NP O
Paris NNP I-NP I-LOC
"""


@pytest.mark.parametrize("name", ["a.conll", "a.txt", "a.train"])
def test_files_of_columns(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(CONLL, encoding="utf-8")
    rows = load(path)
    assert rows_of(rows) == [("Ada Lovelace saw London .", ADA, TAGS), ("# Paris", ["#", "Paris"], ["O", "B-LOC"])]
    assert any("words = column 0, tags = column 3 of 4" in note for note in rows.notes)
    assert any("1 lines that begin a document, 1 lines of comment" in note for note in rows.notes)
    assert rows_of(load(path, label=1))[0][2] == ["NNP", "NNP", "VBD", "NNP", "."]
    with pytest.raises(DataError, match="has 4 columns, and column 4 is wanted"):
        load(path, label=4)


def test_conllu_has_its_own_columns(tmp_path: Path) -> None:
    text = "# text = vámonos ya\n1-2\tvámonos\t_\t_\n1\tvamos\tir\tVERB\n2\tnos\tnosotros\tPRON\n3\tya\tya\tADV\n\n"
    (tmp_path / "a.conllu").write_text(text, encoding="utf-8")
    assert rows_of(load(tmp_path / "a.conllu")) == [("vamos nos ya", ["vamos", "nos", "ya"], ["VERB", "PRON", "ADV"])]


def test_a_tsv_of_texts_is_no_file_of_columns(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.tsv", "tokens\ttags", "Ada saw\tB-PER O", "no one\tO O")
    assert [words for _, words, _ in rows_of(load(path, header=True))] == [["Ada", "saw"], ["no", "one"]]


def test_parallel_files(tmp_path: Path) -> None:
    lines(tmp_path / "seq.in", " ".join(ADA), "no one")
    lines(tmp_path / "seq.out", " ".join(TAGS), "O O")
    assert rows_of(load(tmp_path))[0] == ("Ada Lovelace saw London .", ADA, TAGS)
    lines(tmp_path / "seq.out", " ".join(TAGS))
    with pytest.raises(DataError, match=r"seq\.out' ends after line 1"):
        load(tmp_path)


def test_chinese_by_characters(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("我\tO\n在\tO\n北\tB-LOC\n京\tI-LOC\n\n2\tO\nG\tO\n好\tO\n", encoding="utf-8")
    assert [row[0] for row in rows_of(load(tmp_path / "a.conll"))] == ["我在北京", "2 G 好"]
    path = lines(tmp_path / "b.jsonl", {"text": "我在北京", "tags": "O O B-LOC I-LOC"})
    assert rows_of(load(path)) == [("我在北京", list("我在北京"), ["O", "O", "B-LOC", "I-LOC"])]
    words = lines(
        tmp_path / "c.jsonl", {"tokens": ["我", "在", "北京"], "pos": ["PN", "P", "NR"]}, {"tokens": ["我", "去"], "pos": ["PN", "V"]}
    )
    assert [row[0] for row in rows_of(load(words))] == ["我 在 北京", "我 去"]


def test_texts_with_spans(tmp_path: Path) -> None:
    text = "Ada Lovelace saw New-London."
    spans = [{"start": 0, "end": 12, "label": "PER", "text": "Ada Lovelace"}, {"start": 21, "end": 27, "label": "LOC"}]
    rows = load(lines(tmp_path / "a.jsonl", {"text": text, "entities": spans}, {"text": "nothing here", "entities": []}))
    words = ["Ada", "Lovelace", "saw", "New", "-", "London", "."]
    assert rows_of(rows) == [
        (text, words, ["B-PER", "I-PER", "O", "O", "O", "B-LOC", "O"]),
        ("nothing here", ["nothing", "here"], ["O", "O"]),
    ]
    triples = lines(tmp_path / "b.jsonl", {"text": "我在北京。", "label": [[2, 4, "LOC"]]})
    assert rows_of(load(triples)) == [("我在北京。", list("我在北京。"), ["O", "O", "B-LOC", "I-LOC", "O"])]
    inside = load(lines(tmp_path / "c.jsonl", {"text": "Londoners", "spans": [[0, 6, "LOC"]]}))
    assert rows_of(inside)[0][1:] == (["London", "ers"], ["B-LOC", "O"]) and any("inside of a word" in note for note in inside.notes)


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ([[12, 40, "PER"]], "span outside the text (PER 12 to 40 of 16 characters)"),
        ([[5, 5, "PER"]], "span outside the text (PER 5 to 5 of 16 characters)"),
        ([[0, 12, "PER"], [4, 16, "LOC"]], "overlapping spans (PER 0 to 12, LOC 4 to 16; a word has one tag)"),
        ([{"start": 0, "end": 3, "label": "PER", "text": "Adam"}], "span is not the text that it names (PER 0 to 3 is 'Ada', not 'Adam')"),
        ([{"start": 0, "label": "PER"}], 'span without start, end and label (got {"start": 0, "label": "PER"})'),
        ([[3, 4, "PER"]], "span of white space (PER 3 to 4)"),
    ],
)
def test_spans_that_cannot_be(tmp_path: Path, spans: list[Any], said: str) -> None:
    good = {"text": "Ada was here", "entities": [[0, 3, "PER"]]}
    rows = load(lines(tmp_path / "a.jsonl", good, {"text": "Ada Lovelace ran", "entities": spans}))
    assert [(bad.row, bad.reason) for bad in rows.bad] == [(2, said)] and len(rows_of(rows)) == 1


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "not as many tags as words (got 1 tags for 2 words)"),
        ({"tokens": [], "tags": []}, "no words"),
        ({"tokens": ["a"], "tags": None}, "no tags"),
        ({"tokens": ["a"], "tags": [1.5]}, "tag of a wrong type (got 1.5, wanted a text)"),
        ({"tokens": ["a", "b"], "tags": ["O", "I-PER"]}, "tags break iob2 (word 2 'b' has I-PER after O)"),
    ],
)
def test_rows_that_cannot_be(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    rows = load(lines(tmp_path / "a.jsonl", *[{"tokens": [*ADA, str(n)], "tags": [*TAGS, "O"]} for n in range(3)], row))
    assert [(bad.row, bad.reason) for bad in rows.bad] == [(4, said)]


def test_bad_lines_of_columns_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("Ada B-PER\nran O\n\nin O\nLondon\n\nto O\nParis I-LOC\n\nAda B-PER\n", encoding="utf-8")
    bad = load(tmp_path / "a.conll").bad
    assert [(one.row, one.reason) for one in bad] == [
        (2, "wrong number of columns (line 5 has 1, wanted 2)"),
        (3, "tags break iob2 (word 2 'Paris' has I-LOC after O) in the row of line 7"),
    ]


def test_too_many_bad_rows_are_an_error(tmp_path: Path) -> None:
    good, broken = {"tokens": ADA, "tags": TAGS}, {"tokens": ["in", "Rome"], "tags": ["O", "I-LOC"]}
    with pytest.raises(DataError, match="tags break iob2"):
        load(lines(tmp_path / "a.jsonl", good, broken), max_bad_rows=0.05)


def test_words_of_a_text() -> None:
    def found(text: str, manner: Any) -> list[str]:
        return [text[start:end] for start, end in words_in(text, manner)]

    assert found('He left the U.S. ("by 3.5 p.m.").', "characters") == [*"He left the U.S .".split(), "(", '"', "by", "3.5", "p.m", *'.").']
    assert found("He left the U.S. and came back .", "characters") == "He left the U.S. and came back .".split()
    assert found("我爱iPhone 15。", "characters") == ["我", "爱", "iPhone", "15", "。"]
    assert found("我 爱 北京", "words") == ["我", "爱", "北京"]
    assert found("don't_x 3.5我们", "pieces") == ["don", "'", "t_x", "3", ".", "5", "我", "们"]


@pytest.mark.parametrize("words", [ADA, list("我在北京。"), ["在", "New", "York", "的", "人"], ["3", "G", "网"]])
def test_joined_words_are_found_again(words: list[str]) -> None:
    text, spans = joined(words, "characters")
    assert [text[start:end] for start, end in spans] == words
    assert words_in(text, "characters") == spans
